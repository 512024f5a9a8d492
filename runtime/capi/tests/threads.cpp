// What a C++ program with threads sees: answers of many threads at once, errors of each thread, a process that was forked.
//
// usage: threads PATCH TEXT
//
// In: a patch whose encoder is in the store, and a text. Ends with 1 at the first thing that is not as the header says.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "edge_run.h"

namespace {

template <typename T, void (*FREE)(T *)>
struct Free {
    void operator()(T *handle) const { FREE(handle); }
};
using Encoder = std::unique_ptr<edge_run_encoder, Free<edge_run_encoder, edge_run_encoder_free>>;
using Task = std::unique_ptr<edge_run_task, Free<edge_run_task, edge_run_task_free>>;
using Answers = std::unique_ptr<edge_run_answers, Free<edge_run_answers, edge_run_answers_free>>;

void expect(bool holds, const char *what) {
    if (!holds) {
        std::fprintf(stderr, "threads.cpp: expected %s; the last error is \"%s\"\n", what, edge_run_last_error());
        std::_Exit(1);
    }
}

Answers predict(const Encoder &encoder, const Task &task, const std::string &text) {
    const edge_run_request request = {task.get(), text.data(), text.size(), nullptr, 0};
    edge_run_answers *answers;
    edge_run_predict(encoder.get(), &request, 1, &answers);
    return Answers(answers);
}

std::string json(const Answers &answers) {
    const char *json = edge_run_answer_json(edge_run_answer_at(answers.get(), 0));
    return json == nullptr ? "none" : json;
}

Encoder open(const char *patch, std::uint32_t threads) {
    edge_run_options options = EDGE_RUN_OPTIONS_INIT;
    options.threads = threads;
    edge_run_encoder *encoder;
    expect(edge_run_open_for_patch(patch, &options, &encoder) == EDGE_RUN_OK, "an encoder in the store");
    return Encoder(encoder);
}

// What a process that was forked gets: its exit code is 0 if it is an answer.
int forked(const Encoder &encoder, const Task &task, const std::string &text) {
    const pid_t child = fork();
    if (child == 0) {
        const bool answered = predict(encoder, task, text) != nullptr;
        const bool told = std::string(edge_run_last_error()).find("load it here") != std::string::npos;
        _exit(answered ? 0 : told ? 2 : 1);
    }
    int status = 0;
    expect(waitpid(child, &status, 0) == child && WIFEXITED(status), "a process that ends");
    return WEXITSTATUS(status);
}

}  // namespace

int main(int count, char **arguments) {
    expect(count == 3, "a patch and a text");
    const std::string text = arguments[2];
    std::string alone;
    for (std::uint32_t threads = 1; threads <= 2; threads++) {
        const Encoder encoder = open(arguments[1], threads);
        edge_run_task *made;
        expect(edge_run_attach(encoder.get(), arguments[1], &made) == EDGE_RUN_OK, "a patch that fits");
        const Task task(made);
        const std::string due = json(predict(encoder, task, text));
        expect(due.find("\"logits\":[") != std::string::npos, "an answer");
        expect(forked(encoder, task, text) == (threads == 1 ? 0 : 2), "a forked process to answer with one thread, and else to be told");

        std::vector<std::thread> several;
        for (int number = 0; number < 4; number++) {
            several.emplace_back([&encoder, &task, &text, &due, number] {
                expect(*edge_run_last_error() == '\0', "no error of another thread");
                const std::string nowhere = "nowhere-" + std::to_string(number);
                edge_run_encoder *none;
                expect(edge_run_open(nowhere.c_str(), nullptr, &none) == EDGE_RUN_FILE, "no such bundle");
                const std::string said = edge_run_last_error();
                expect(said.find(nowhere) != std::string::npos, "the error of this thread");
                for (int turn = 0; turn < 25; turn++) {
                    expect(json(predict(encoder, task, text)) == due, "the answer of one thread alone");
                }
                expect(said == edge_run_last_error(), "calls that succeed to leave the last error");
            });
        }
        for (std::thread &thread : several) {
            thread.join();
        }
        // Threads share the work of a text, and change nothing in its sums.
        expect(alone.empty() || alone == due, "one thread and two to answer alike");
        alone = due;
    }
    return 0;
}
