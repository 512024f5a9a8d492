// edge-run: one frozen encoder, any number of tasks, each a patch of a few kilobytes.
//
// Generated from runtime/capi/src; change it there.
//
// Strings. All are UTF-8. Those that this library takes as `const char *` alone end with a NUL; those with a length
// need not. Those that it gives end with a NUL.
//
// Memory. What edge_run_open, edge_run_open_for_patch, edge_run_attach and edge_run_predict give is the caller's, until
// the function whose name ends with _free takes it back, once. Everything else that this library gives belongs to the
// handle it was asked of, and lasts as long. What the caller passes is read during the call and not kept: an encoder
// may be freed before its tasks.
//
// Errors. A function that can fail gives an edge_run_status, or NULL, 0 or NaN; edge_run_last_error then says in words
// what was expected and what was found. Arguments are checked as far as C allows: a NULL, a count of zero, an unknown
// number and bytes that are not UTF-8 are refused. A pointer to anything else than the header says, and a handle that
// was freed, cannot be seen.
//
// Threads. An encoder, its tasks and answers may be used by any number of threads at once, without locks: calls change
// nothing that other calls see. To free one, no other call may be using it. edge_run_last_error is of the calling
// thread. A process that was forked may use an encoder of one thread, if no other thread was in a call when it was
// forked; with more threads it is refused, for the threads stayed in the other process. An encoder that was freed does
// not wait for its threads to end: a program that loaded this library with dlopen keeps it loaded.

#ifndef EDGE_RUN_H
#define EDGE_RUN_H

#include <stddef.h>
#include <stdint.h>

// The length of a text that ends with a NUL.
#define EDGE_RUN_NUL_TERMINATED SIZE_MAX

// Options with which edge_run_open does what it does without options.
#define EDGE_RUN_OPTIONS_INIT { sizeof(edge_run_options), 1, EDGE_RUN_ACTIVATIONS_INT8, EDGE_RUN_ENGINE_AUTO }

// The version of the binary interface that this header describes. It grows when a program that was compiled before
// would no longer run; new functions alone leave it.
#define EDGE_RUN_ABI_VERSION 1

// Round activations as the weights are: to int8 with int8 and int4 weights, which is faster; to f16 with f16 weights,
// on processors that compute with it.
#define EDGE_RUN_ACTIVATIONS_INT8 0

// Compute with f32 activations. With f32 weights they always are.
#define EDGE_RUN_ACTIVATIONS_F32 1

// EDGE_RUN_ENGINE_LOWERED if its operators cover the graph, else EDGE_RUN_ENGINE_TRACT.
#define EDGE_RUN_ENGINE_AUTO 0

// Fused operators over mapped weights; several texts at once, on several threads.
#define EDGE_RUN_ENGINE_LOWERED 1

// The exported graph in tract: any graph, but slower, one text at a time, over a copy of the weights.
#define EDGE_RUN_ENGINE_TRACT 2

// What a call came to.
typedef enum {
  // It did what it says.
  EDGE_RUN_OK = 0,
  // An argument is wrong: the program has to be changed.
  EDGE_RUN_MISUSE = 1,
  // A bundle or a patch is missing, damaged or for another encoder.
  EDGE_RUN_FILE = 2,
  // No engine runs the bundle's graph, or it failed.
  EDGE_RUN_ENGINE = 3,
  // The system gave too little memory.
  EDGE_RUN_MEMORY = 4,
  // A text cannot be answered: it is empty, not UTF-8, or not one of as many as the task takes.
  EDGE_RUN_TEXT = 5,
  // A fault of this library. Built with panic = "abort" it ends the process instead.
  EDGE_RUN_PANIC = 6,
} edge_run_status;

// The answer to one request, or why there is none. It belongs to its edge_run_answers.
typedef struct edge_run_answer edge_run_answer;

// The answers to the requests of a call.
typedef struct edge_run_answers edge_run_answers;

// A loaded encoder. Its weights are mapped: processes on one machine share them.
typedef struct edge_run_encoder edge_run_encoder;

// A task: a patch, attached to an encoder.
typedef struct edge_run_task edge_run_task;

// How an encoder runs. Start with EDGE_RUN_OPTIONS_INIT.
typedef struct {
  // sizeof(edge_run_options).
  uint32_t size;
  // Threads that share the work of a call, 1 to 256. They sleep between calls.
  uint32_t threads;
  // EDGE_RUN_ACTIVATIONS_INT8 or EDGE_RUN_ACTIVATIONS_F32.
  uint32_t activations;
  // EDGE_RUN_ENGINE_AUTO, EDGE_RUN_ENGINE_LOWERED or EDGE_RUN_ENGINE_TRACT.
  uint32_t engine;
} edge_run_options;

// A text, or two, and the task that it is for.
typedef struct {
  // The task.
  const edge_run_task *task;
  // The text. NULL with 0 bytes, as an empty std::string_view has them, is an empty text.
  const char *text;
  // Its bytes, or EDGE_RUN_NUL_TERMINATED.
  size_t text_bytes;
  // The second text of a task on two; NULL for a task on one.
  const char *second;
  // Its bytes, or EDGE_RUN_NUL_TERMINATED; with NULL 0.
  size_t second_bytes;
} edge_run_request;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, such as "0.1.0".
const char *edge_run_version(void);

// The version of its binary interface. It equals EDGE_RUN_ABI_VERSION, unless a program loaded another library by
// hand.
uint32_t edge_run_abi_version(void);

// Why the last call of this thread that failed did; empty if none has. A call that succeeds leaves it. It lasts until
// the next call of this thread that fails.
const char *edge_run_last_error(void);

// Loads the encoder of a bundle, a directory. `options` may be NULL. After a failure `*encoder` is NULL.
edge_run_status edge_run_open(const char *bundle, const edge_run_options *options, edge_run_encoder **encoder);

// Loads the encoder that a patch was made for, from the user's store, to which edge-export writes. The patch is not
// attached. The rest is as with edge_run_open.
edge_run_status edge_run_open_for_patch(const char *patch, const edge_run_options *options, edge_run_encoder **encoder);

// What computes: the kernel and the type of activations; or "tract", which runs graphs that EDGE_RUN_ENGINE_LOWERED
// does not cover. For people to read.
const char *edge_run_encoder_arithmetic(const edge_run_encoder *encoder);

// Frees an encoder. NULL is none.
void edge_run_encoder_free(edge_run_encoder *encoder);

// Makes a task of a patch, a file. A patch for another encoder is EDGE_RUN_FILE. After a failure `*task` is NULL.
edge_run_status edge_run_attach(const edge_run_encoder *encoder, const char *patch, edge_run_task **task);

// A label of a task, by its number from 0, which is also that of its logit. NULL past the last; a task without labels
// has none.
const char *edge_run_task_label(const edge_run_task *task, size_t number);

// Frees a task. NULL is none.
void edge_run_task_free(edge_run_task *task);

// Answers `count` requests, which may be of different tasks; they run together. `*answers` has one for each, in their
// order. A text that cannot be answered has an answer that says why, and is no failure. A task that was attached to an
// encoder of another bundle is EDGE_RUN_MISUSE. After a failure `*answers` is NULL.
edge_run_status edge_run_predict(const edge_run_encoder *encoder,
                                 const edge_run_request *requests,
                                 size_t count,
                                 edge_run_answers **answers);

// The answer to a request, by its number from 0; NULL past the last.
const edge_run_answer *edge_run_answer_at(const edge_run_answers *answers, size_t number);

// Why there is no answer; NULL if there is one.
const char *edge_run_answer_error(const edge_run_answer *answer);

// The label: of a classification the likeliest, of a span task the text of the best span, which is empty if the second
// text has no answer. NULL for tasks of other kinds: edge_run_answer_json has what they say. `*bytes` is its length
// without the NUL behind it, for a span may hold a NUL of its text; `bytes` may be NULL.
const char *edge_run_answer_label(const edge_run_answer *answer, size_t *bytes);

// The score of the label, from 0 to 1; of a regression its number. NaN for tasks of other kinds, and without an
// answer.
float edge_run_answer_score(const edge_run_answer *answer);

// The head's outputs, `*count` floats: a logit for each label, in the order of edge_run_task_label; of a regression
// one; of an embedding the vector before it is cut and normalized. NULL, and 0, for tasks that have many of them for a
// text, and without an answer.
const float *edge_run_answer_logits(const edge_run_answer *answer, size_t *count);

// The answer, or the error, as a line of `edge-run -o jsonl --logits`, without its field `line` and the line break.
const char *edge_run_answer_json(const edge_run_answer *answer);

// Frees answers. NULL is none.
void edge_run_answers_free(edge_run_answers *answers);

// Floats of a task's vectors; 0 if it is no embedding task.
size_t edge_run_dimensions(const edge_run_encoder *encoder, const edge_run_task *task);

// Writes a vector for each of `count` requests into `vectors`, which has room for `floats` floats: `count` rows of
// edge_run_dimensions, row after row. The tasks may differ, in their prompts for one, but not in their dimensions.
//
// A text that cannot be answered has a row of NaN. The call then gives EDGE_RUN_TEXT and names the first such request,
// by its number from 0; all other rows hold. After any other failure nothing was written.
edge_run_status edge_run_embed(const edge_run_encoder *encoder,
                               const edge_run_request *requests,
                               size_t count,
                               float *vectors,
                               size_t floats);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* EDGE_RUN_H */
