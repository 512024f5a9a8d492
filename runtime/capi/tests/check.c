/* What a C program sees: answers, vectors, refusals.
 *
 * usage: check BUNDLE PATCHES VECTORS OTHER < LINES
 *
 * In: a bundle, a directory with the patches named below, the bundle OTHER of another encoder, and lines of one text, or of two with a tab between. Out: first what edge-run
 * writes with -o jsonl --logits and all patches, then a row of label, score, logits and error for each answer; in the file VECTORS the
 * vectors of the last patch. Ends with 1 at the first thing that is not as the header says. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_run.h"

#define PATCHES 7
#define MOST_LINES 32
#define MOST_BYTES 4096

static const char *const NAMES[PATCHES] = {"label", "pair", "number", "tags", "span", "several", "vector"};

#define EXPECT(holds) expect((holds), #holds, __LINE__)
#define REFUSED(call, due, said) refused((call), (due), (said), #call, __LINE__)
#define DONE(call) EXPECT((call) == EDGE_RUN_OK)

static void expect(int holds, const char *what, int line) {
    if (!holds) {
        fprintf(stderr, "check.c:%d: expected %s; the last error is \"%s\"\n", line, what, edge_run_last_error());
        exit(1);
    }
}

static void refused(edge_run_status found, edge_run_status due, const char *said, const char *call, int line) {
    if (found != due || strstr(edge_run_last_error(), said) == NULL) {
        fprintf(stderr, "check.c:%d: %s: expected %d and \"%s\", found %d and \"%s\"\n", line, call, due, said, found,
                edge_run_last_error());
        exit(1);
    }
}

/* Lines of standard input, cut at their tab. A buffer of its own size for each text, so that a sanitizer sees a read beyond it. */
static size_t read_lines(edge_run_request *requests) {
    static char line[MOST_BYTES];
    size_t count = 0;
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t bytes = strcspn(line, "\n");
        size_t first = strcspn(line, "\t\n");
        char *text = malloc(first + 1);
        char *second = first < bytes ? malloc(bytes - first) : NULL;
        EXPECT(text != NULL && count < MOST_LINES);
        memcpy(text, line, first);
        text[first] = '\0';
        requests[count].text = text;
        /* Both forms of a text. */
        requests[count].text_bytes = count % 2 ? first : EDGE_RUN_NUL_TERMINATED;
        if (second != NULL) {
            memcpy(second, line + first + 1, bytes - first - 1);
            requests[count].second = second;
            requests[count].second_bytes = bytes - first - 1;
        }
        count++;
    }
    return count;
}

static void answers(const edge_run_encoder *encoder, edge_run_task *const *tasks, const edge_run_request *lines, size_t count) {
    edge_run_request *requests = malloc(count * PATCHES * sizeof *requests);
    edge_run_answers *all;
    size_t at, logit, logits, bytes;
    EXPECT(requests != NULL);
    for (at = 0; at < count * PATCHES; at++) {
        requests[at] = lines[at / PATCHES];
        requests[at].task = tasks[at % PATCHES];
    }
    DONE(edge_run_predict(encoder, requests, count * PATCHES, &all));
    for (at = 0; at < count * PATCHES; at++) {
        const char *json = edge_run_answer_json(edge_run_answer_at(all, at));
        EXPECT(json != NULL && json[0] == '{' && json == edge_run_answer_json(edge_run_answer_at(all, at)));
        printf("{\"line\":%zu,%s\n", at / PATCHES + 1, json + 1);
    }
    for (at = 0; at < count * PATCHES; at++) {
        const edge_run_answer *answer = edge_run_answer_at(all, at);
        const char *label = edge_run_answer_label(answer, &bytes), *error = edge_run_answer_error(answer);
        const float *values = edge_run_answer_logits(answer, &logits);
        float score = edge_run_answer_score(answer);
        EXPECT((values == NULL) == (logits == 0));
        EXPECT(label == NULL ? bytes == 0 : label == edge_run_answer_label(answer, NULL) && strlen(label) == bytes);
        printf("%s\t%.9g\t", label == NULL ? "none" : label, score);
        for (logit = 0; logit < logits; logit++) {
            printf("%.9g ", values[logit]);
        }
        printf("\t%s\n", error == NULL ? "none" : error);
    }
    EXPECT(edge_run_answer_at(all, count * PATCHES) == NULL);
    EXPECT(strstr(edge_run_last_error(), "number: expected one below") != NULL);
    edge_run_answers_free(all);
    free(requests);
}

static void vectors(const edge_run_encoder *encoder, const edge_run_task *task, edge_run_request *lines, size_t count, const char *path) {
    size_t width = edge_run_dimensions(encoder, task), floats = count * width, at;
    /* Exactly as large as it has to be. */
    float *room = malloc(floats * sizeof *room);
    FILE *file = fopen(path, "wb");
    EXPECT(width > 0 && room != NULL && file != NULL);
    for (at = 0; at < count; at++) {
        lines[at].task = task;
    }
    room[0] = 7;
    REFUSED(edge_run_embed(encoder, lines, count, room, floats - 1), EDGE_RUN_MISUSE, "floats: expected at least");
    REFUSED(edge_run_embed(encoder, lines, count, NULL, floats), EDGE_RUN_MISUSE, "vectors: expected a pointer, found NULL");
    REFUSED(edge_run_embed(encoder, lines, 0, room, floats), EDGE_RUN_MISUSE, "requests: expected at least one, found a count of 0");
    REFUSED(edge_run_embed(encoder, lines, SIZE_MAX / 2, room, floats), EDGE_RUN_MISUSE, "requests: expected at most");
    EXPECT(room[0] == 7);
    /* Some of the lines have no answer. */
    REFUSED(edge_run_embed(encoder, lines, count, room, floats), EDGE_RUN_TEXT, "request 3: empty text");
    EXPECT(fwrite(room, sizeof *room, floats, file) == floats && fclose(file) == 0);
    DONE(edge_run_embed(encoder, lines, 1, room, width));
    free(room);
}

static void refusals(const edge_run_encoder *encoder, edge_run_task *const *tasks, const char *const *arguments, const char *patch) {
    static const char broken[] = "a \xff";
    edge_run_options options = EDGE_RUN_OPTIONS_INIT;
    edge_run_request request = {NULL, "a film", EDGE_RUN_NUL_TERMINATED, NULL, 0}, several[3];
    edge_run_encoder *other = NULL;
    edge_run_task *task = NULL;
    edge_run_answers *none = NULL;
    float room[64];
    const char *const bundle = arguments[1];
    union { char bytes[sizeof(edge_run_request) + 1]; edge_run_request aligned; } shifted;

    REFUSED(edge_run_open(NULL, NULL, &other), EDGE_RUN_MISUSE, "bundle: expected a pointer, found NULL");
    EXPECT(other == NULL);
    REFUSED(edge_run_open(bundle, NULL, NULL), EDGE_RUN_MISUSE, "encoder: expected a pointer, found NULL");
    REFUSED(edge_run_open("", NULL, &other), EDGE_RUN_MISUSE, "bundle: expected a name, found an empty one");
    REFUSED(edge_run_open(broken, NULL, &other), EDGE_RUN_MISUSE, "bundle: expected UTF-8, found invalid UTF-8 after 2 bytes");
    REFUSED(edge_run_open("nowhere", NULL, &other), EDGE_RUN_FILE, "nowhere");
    REFUSED(edge_run_open_for_patch("nowhere.bias", NULL, &other), EDGE_RUN_FILE, "nowhere.bias");
    options.size--;
    REFUSED(edge_run_open(bundle, &options, &other), EDGE_RUN_MISUSE, "options: size: expected 16");
    options.size++;
    options.threads = 0;
    REFUSED(edge_run_open(bundle, &options, &other), EDGE_RUN_MISUSE, "options: threads: expected at least 1, found 0");
    options.threads = 1000;
    REFUSED(edge_run_open(bundle, &options, &other), EDGE_RUN_MISUSE, "threads: expected 1 to 256, found 1000");
    options.threads = 1;
    options.activations = 2;
    REFUSED(edge_run_open(bundle, &options, &other), EDGE_RUN_MISUSE, "options: activations: expected");
    options.activations = EDGE_RUN_ACTIVATIONS_F32;
    options.engine = 3;
    REFUSED(edge_run_open(bundle, &options, &other), EDGE_RUN_MISUSE, "options: engine: expected");
    options.engine = EDGE_RUN_ENGINE_TRACT;
    DONE(edge_run_open(bundle, &options, &other));
    EXPECT(strcmp(edge_run_encoder_arithmetic(other), "tract") == 0);
    edge_run_encoder_free(other);

    task = tasks[0];
    REFUSED(edge_run_attach(NULL, patch, &task), EDGE_RUN_MISUSE, "encoder: expected a pointer, found NULL");
    EXPECT(task == NULL);
    REFUSED(edge_run_attach(encoder, NULL, &task), EDGE_RUN_MISUSE, "patch: expected a pointer, found NULL");
    REFUSED(edge_run_attach(encoder, patch, NULL), EDGE_RUN_MISUSE, "task: expected a pointer, found NULL");
    REFUSED(edge_run_attach(encoder, "nowhere.bias", &task), EDGE_RUN_FILE, "nowhere.bias");
    DONE(edge_run_open(arguments[4], NULL, &other));
    REFUSED(edge_run_attach(other, patch, &task), EDGE_RUN_FILE, "the patch fits encoder");
    EXPECT(task == NULL);
    request.task = tasks[0];
    REFUSED(edge_run_predict(other, &request, 1, &none), EDGE_RUN_MISUSE, "request 0: task label was attached to encoder");
    EXPECT(none == NULL);
    edge_run_encoder_free(other);
    request.task = NULL;

    REFUSED(edge_run_predict(encoder, &request, 1, &none), EDGE_RUN_MISUSE, "request 0: task: expected a pointer, found NULL");
    request.task = tasks[0];
    REFUSED(edge_run_predict(NULL, &request, 1, &none), EDGE_RUN_MISUSE, "encoder: expected a pointer");
    REFUSED(edge_run_predict(encoder, NULL, 1, &none), EDGE_RUN_MISUSE, "requests: expected a pointer");
    REFUSED(edge_run_predict(encoder, &request, 0, &none), EDGE_RUN_MISUSE, "requests: expected at least one");
    REFUSED(edge_run_predict(encoder, &request, 1, NULL), EDGE_RUN_MISUSE, "answers: expected a pointer");
    REFUSED(edge_run_predict(encoder, (const edge_run_request *)(const void *)(shifted.bytes + 1), 1, &none), EDGE_RUN_MISUSE,
            "requests: expected a pointer to a multiple of");
    request.text_bytes = SIZE_MAX - 1;
    REFUSED(edge_run_predict(encoder, &request, 1, &none), EDGE_RUN_MISUSE, "request 0: text: expected at most");
    request.text_bytes = 2;
    request.second_bytes = 1;
    REFUSED(edge_run_predict(encoder, &request, 1, &none), EDGE_RUN_MISUSE, "request 0: second: expected a pointer");
    request.second_bytes = 0;
    request.text = NULL;
    REFUSED(edge_run_predict(encoder, &request, 1, &none), EDGE_RUN_MISUSE, "request 0: text: expected a pointer");
    EXPECT(none == NULL);

    /* Texts that have no answer are no failure. */
    request.text = broken;
    request.text_bytes = sizeof broken - 1;
    several[0] = several[1] = several[2] = request;
    several[1].text_bytes = several[2].text_bytes = 0;
    several[2].text = NULL;
    DONE(edge_run_predict(encoder, several, 3, &none));
    EXPECT(strcmp(edge_run_answer_error(edge_run_answer_at(none, 0)), "invalid UTF-8 after 2 bytes") == 0);
    EXPECT(strcmp(edge_run_answer_error(edge_run_answer_at(none, 1)), "empty text") == 0);
    EXPECT(strcmp(edge_run_answer_error(edge_run_answer_at(none, 2)), "empty text") == 0);
    edge_run_answers_free(none);

    REFUSED(edge_run_embed(encoder, several, 3, room, 64), EDGE_RUN_MISUSE, "request 0: task: expected an embedding task, found");
    EXPECT(edge_run_dimensions(encoder, tasks[0]) == 0 && edge_run_dimensions(encoder, NULL) == 0);
    EXPECT(edge_run_answer_at(NULL, 0) == NULL && edge_run_answer_error(NULL) == NULL);
    EXPECT(edge_run_answer_label(NULL, NULL) == NULL && edge_run_answer_logits(NULL, NULL) == NULL);
    EXPECT(edge_run_answer_json(NULL) == NULL && isnan(edge_run_answer_score(NULL)));
    EXPECT(edge_run_encoder_arithmetic(NULL) == NULL && edge_run_task_label(NULL, 0) == NULL);
    EXPECT(strcmp(edge_run_last_error(), "task: expected a pointer, found NULL") == 0);
    edge_run_answers_free(NULL);
    edge_run_task_free(NULL);
    edge_run_encoder_free(NULL);
}

int main(int count, char **arguments) {
    edge_run_request lines[MOST_LINES];
    static char paths[PATCHES][MOST_BYTES];
    edge_run_encoder *encoder;
    edge_run_task *tasks[PATCHES];
    size_t read, at;
    EXPECT(count == 5);
    EXPECT(edge_run_abi_version() == EDGE_RUN_ABI_VERSION && strcmp(edge_run_last_error(), "") == 0);
    EXPECT(sizeof(edge_run_options) == 16);
    EXPECT(sizeof(edge_run_request) == 5 * sizeof(void *) && offsetof(edge_run_request, second_bytes) == 4 * sizeof(void *));
    DONE(edge_run_open(arguments[1], NULL, &encoder));
    EXPECT(strstr(edge_run_encoder_arithmetic(encoder), "F32") != NULL);
    for (at = 0; at < PATCHES; at++) {
        snprintf(paths[at], sizeof paths[at], "%s/%s.bias", arguments[2], NAMES[at]);
        DONE(edge_run_attach(encoder, paths[at], &tasks[at]));
    }
    EXPECT(strcmp(edge_run_task_label(tasks[0], 2), "yes") == 0 && edge_run_task_label(tasks[0], 3) == NULL);
    EXPECT(edge_run_task_label(tasks[PATCHES - 1], 0) == NULL);
    memset(lines, 0, sizeof lines);
    read = read_lines(lines);
    answers(encoder, tasks, lines, read);
    vectors(encoder, tasks[PATCHES - 1], lines, read, arguments[3]);
    refusals(encoder, tasks, (const char *const *)arguments, paths[0]);
    /* The encoder first, for tasks do not need it to be freed. */
    edge_run_encoder_free(encoder);
    for (at = 0; at < PATCHES; at++) {
        edge_run_task_free(tasks[at]);
    }
    for (at = 0; at < read; at++) {
        free((void *)lines[at].text);
        free((void *)lines[at].second);
    }
    return 0;
}
