/* Runs an encoder some number of times by ONNX Runtime's C API, on one thread, for its instructions to be counted.
 *
 * In: LIBRARY GRAPH VOCABULARY TOKENS RUNS LEVEL ARENA: how far the graph is optimized (1 basic, 2 extended, 99 all), and
 * whether memory comes from an arena (1) or from malloc (0). Token number `at` has the id (7919 at + 1) mod VOCABULARY, as in
 * `edge-run bench`. Out: hidden values of the first token, up to eight, on a line.
 *
 * The wheels have the library without its header, so what is used of it is declared here. The functions of OrtApi keep their
 * places in all versions.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct base {
    void *const *(*api)(uint32_t version);
};

enum { MOST_TOKENS = 512, MOST_INPUTS = 3, SHOWN = 8 };

/* Values of its enums, and the version of its API that has all that is used here. */
enum { VERSION = 1, WARNINGS = 2, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0, INT64 = 7 };

/* Places of functions in OrtApi. */
enum {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    DISABLE_CPU_MEM_ARENA = 19,
    SET_GRAPH_OPTIMIZATION_LEVEL = 23,
    SET_INTRA_OP_NUM_THREADS = 24,
    SESSION_GET_INPUT_COUNT = 30,
    SESSION_GET_INPUT_NAME = 36,
    CREATE_TENSOR_WITH_DATA = 49,
    GET_TENSOR_MUTABLE_DATA = 51,
    CREATE_CPU_MEMORY_INFO = 69,
    GET_ALLOCATOR = 78,
    RELEASE_VALUE = 96,
};

static void *const *api;

static void *must(void *status)
{
    if (status != NULL) {
        const char *(*message)(void *) = api[GET_ERROR_MESSAGE];
        fprintf(stderr, "onnxruntime.c: %s\n", message(status));
        exit(1);
    }
    return NULL;
}

/* A call of the function in a place; all but the release give a status. */
#define CALL(place, types, ...) must(((void *(*) types)api[place])(__VA_ARGS__))

int main(int count, char **arguments)
{
    if (count != 8) {
        fputs("onnxruntime.c: expected LIBRARY GRAPH VOCABULARY TOKENS RUNS LEVEL ARENA\n", stderr);
        return 2;
    }
    const char *graph = arguments[2];
    long vocabulary = atol(arguments[3]), tokens = atol(arguments[4]), runs = atol(arguments[5]);
    int level = atoi(arguments[6]), arena = atoi(arguments[7]);
    if (vocabulary < 1 || tokens < 1 || tokens > MOST_TOKENS || runs < 1) {
        fprintf(stderr, "onnxruntime.c: expected numbers from 1, and at most %d tokens\n", MOST_TOKENS);
        return 2;
    }
    void *library = dlopen(arguments[1], RTLD_NOW);
    const struct base *(*entry)(void) = library == NULL ? NULL : dlsym(library, "OrtGetApiBase");
    api = entry == NULL ? NULL : entry()->api(VERSION);
    if (api == NULL) {
        const char *reason = library == NULL ? dlerror() : "it has no OrtGetApiBase, or not this version of the API";
        fprintf(stderr, "onnxruntime.c: %s: expected a library of ONNX Runtime: %s\n", arguments[1], reason);
        return 1;
    }

    void *env, *options, *session, *memory, *allocator;
    CALL(CREATE_ENV, (int, const char *, void **), WARNINGS, "count", &env);
    CALL(CREATE_SESSION_OPTIONS, (void **), &options);
    CALL(SET_INTRA_OP_NUM_THREADS, (void *, int), options, 1);
    CALL(SET_GRAPH_OPTIMIZATION_LEVEL, (void *, int), options, level);
    if (!arena)
        CALL(DISABLE_CPU_MEM_ARENA, (void *), options);
    CALL(CREATE_SESSION, (void *, const char *, void *, void **), env, graph, options, &session);
    CALL(CREATE_CPU_MEMORY_INFO, (int, int, void **), DEVICE_ALLOCATOR, DEFAULT_MEMORY, &memory);
    CALL(GET_ALLOCATOR, (void **), &allocator);

    static int64_t numbers[MOST_INPUTS][MOST_TOKENS];
    int64_t shape[] = {1, tokens};
    size_t inputs;
    char *names[MOST_INPUTS];
    void *values[MOST_INPUTS];
    CALL(SESSION_GET_INPUT_COUNT, (void *, size_t *), session, &inputs);
    if (inputs > MOST_INPUTS) {
        fprintf(stderr, "onnxruntime.c: %s: expected at most %d inputs, found %zu\n", graph, MOST_INPUTS, inputs);
        return 1;
    }
    for (size_t input = 0; input < inputs; input++) {
        CALL(SESSION_GET_INPUT_NAME, (void *, size_t, void *, char **), session, input, allocator, &names[input]);
        int ids = strcmp(names[input], "input_ids") == 0, mask = strcmp(names[input], "attention_mask") == 0;
        for (long at = 0; at < tokens; at++)
            numbers[input][at] = ids ? (7919 * at + 1) % vocabulary : mask;
        CALL(CREATE_TENSOR_WITH_DATA, (void *, void *, size_t, int64_t *, size_t, int, void **), memory, numbers[input],
             tokens * sizeof(int64_t), shape, 2, INT64, &values[input]);
    }

    const char *output[] = {"last_hidden_state"};
    for (long run = 1; run <= runs; run++) {
        void *hidden = NULL;
        CALL(RUN, (void *, void *, char **, void **, size_t, const char **, size_t, void **), session, NULL, names, values,
             inputs, output, 1, &hidden);
        if (run == runs) {
            float *first;
            CALL(GET_TENSOR_MUTABLE_DATA, (void *, float **), hidden, &first);
            for (int at = 0; at < SHOWN; at++)
                printf("%.6g%c", first[at], at + 1 < SHOWN ? ' ' : '\n');
        }
        ((void (*)(void *))api[RELEASE_VALUE])(hidden);
    }
    /* What is left goes with the process: its end is in every count. */
    return 0;
}
