// Labels a text from Node, through koffi (npm install koffi).
//
// usage: node label.js LIBRARY PATCH TEXT
//
// In: libedge_run.so, a patch whose encoder is in the store, a text. Out: the answer as JSON.
const koffi = require("koffi");

const [library, patch, text] = process.argv.slice(2);
const edgeRun = koffi.load(library);
for (const handle of ["encoder", "task", "answers", "answer"]) koffi.opaque(`edge_run_${handle}`);
const request = koffi.struct("edge_run_request", {
  task: "edge_run_task *", text: "const char *", text_bytes: "size_t", second: "const char *", second_bytes: "size_t",
});
const open = edgeRun.func("int edge_run_open_for_patch(const char *, const void *, _Out_ edge_run_encoder **)");
const attach = edgeRun.func("int edge_run_attach(edge_run_encoder *, const char *, _Out_ edge_run_task **)");
const predict = edgeRun.func("int edge_run_predict(edge_run_encoder *, edge_run_request *, size_t, _Out_ edge_run_answers **)");
const answerAt = edgeRun.func("edge_run_answer *edge_run_answer_at(edge_run_answers *, size_t)");
const json = edgeRun.func("const char *edge_run_answer_json(edge_run_answer *)");
const lastError = edgeRun.func("const char *edge_run_last_error()");

// Calls that give a handle: the last argument is its place.
function made(call, ...given) {
  const place = [null];
  if (call(...given, place) !== 0) throw new Error(lastError());
  return place[0];
}

const encoder = made(open, patch, null);
const task = made(attach, encoder, patch);
const asked = { task, text, text_bytes: Buffer.byteLength(text), second: null, second_bytes: 0 };
const answers = made(predict, encoder, asked, 1);
console.log(json(answerAt(answers, 0)));
for (const [name, handle] of Object.entries({ answers, task, encoder })) {
  edgeRun.func(`void edge_run_${name}_free(edge_run_${name} *)`)(handle);
}
