import { describe, expect, test } from "bun:test";
import {
  asksToKeep,
  prefersMainAccount,
  idEndedBy,
  idsAddressed,
  idsIn,
  isStateful,
  learnIds,
  learnIdsOfStream,
  StreamIds,
} from "./resources.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const json = (value: unknown) => bytes(JSON.stringify(value));

describe("an answer that may tell of an account's things", () => {
  const rows: [says: string, request: string, isStateful: boolean][] = [
    ["is not that of a chat", "POST /v1/chat/completions", false],
    ["is not that of a message", "POST /v1/messages", false],
    ["is not that of an embedding", "POST /v1/embeddings", false],
    ["is not that of a Gemini turn", "POST /v1beta/models/gemini-2.5-pro:streamGenerateContent", false],
    ["is not the list of models", "GET /v1/models", false],
    [
      "is not that of a model with a name like a collection",
      "POST /v1/models/files-1/chat/completions",
      false,
    ],
    ["is not that of an Azure deployment", "POST /openai/deployments/d/chat/completions", false],
    ["is that of a response", "POST /v1/responses", true],
    ["is that of a response of Azure", "POST /openai/v1/responses", true],
    ["is that of an upload", "POST /v1/files", true],
    ["is that of an upload without a version", "POST /files", true],
    ["is a list", "GET /v1/batches", true],
    ["is a thing", "GET /v1/batches/batch_1", true],
    ["is that of a stored chat", "GET /v1/chat/completions/chatcmpl-1", true],
    ["is that of a batch of messages", "POST /v1/messages/batches", true],
    ["is that of a thread's messages", "POST /v1/threads/thread_1/messages", true],
    ["is that of a fine-tuning job", "POST /v1/fine_tuning/jobs", true],
    ["is that of an upload to Gemini", "POST /upload/v1beta/files", true],
    ["is that of Gemini's long work", "POST /v1beta/models/veo-3:predictLongRunning", true],
    ["is that of a chat asked for later", "POST /async/chat/completions", true],
    ["is no file's content", "GET /v1/files/file-1/content", false],
    ["is no batch's results", "GET /v1/messages/batches/msgbatch_1/results", false],
    ["is no Gemini file's content", "GET /v1beta/files/abc:download", false],
    ["is not that of a deletion", "DELETE /v1/files/file-1", false],
  ];
  test.each(rows)("%s", (_, request, expected) => {
    const [method = "", path = ""] = request.split(" ");
    expect(isStateful(path, method)).toBe(expected);
  });

  const kept: [says: string, path: string, body: string, asksToKeep: boolean][] = [
    ["is that of a chat that is to be stored", "/v1/chat/completions", '{"messages":[],"store": true}', true],
    ["is not that of one that is not", "/v1/chat/completions", '{"store":false,"messages":[]}', false],
    [
      "is not that of one that only talks of it",
      "/v1/chat/completions",
      '{"messages":["\\"store\\":true"]}',
      false,
    ],
    [
      "is that of one whose tool has a store of its own",
      "/v1/chat/completions",
      '{"tools":[{"store":{"type":"string"}}],"store":true}',
      true,
    ],
    [
      "is that of a message whose code runs in a container",
      "/v1/messages",
      '{"tools":[{"type":"code_execution_20250825","name":"code_execution"}]}',
      true,
    ],
    ["is not that of another message", "/v1/messages", '{"messages":[]}', false],
    ["is not that of an embedding", "/v1/embeddings", '{"store":true}', false],
  ];
  test.each(kept)("%s", (_, path, body, expected) => {
    expect(asksToKeep(path, bytes(body))).toBe(expected);
  });
});

describe("the ids in a path and its query", () => {
  const rows: [says: string, target: string, ids: string[]][] = [
    ["are none in a list", "/v1/files", []],
    ["are none of a chat", "/v1/chat/completions", []],
    ["are a file's", "/v1/files/file-abc", ["file-abc"]],
    ["are a file's whose content is asked for", "/v1/files/file-abc/content", ["file-abc"]],
    ["are an upload's", "/v1/uploads/upload_1/parts", ["upload_1"]],
    ["are a batch's", "/v1/batches/batch_1/cancel", ["batch_1"]],
    ["are a response's", "/v1/responses/resp_1/input_items", ["resp_1"]],
    ["are a conversation's and its item's", "/v1/conversations/conv_1/items/msg_1", ["conv_1", "msg_1"]],
    ["are a run's, the thread first", "/v1/threads/thread_1/runs/run_1/steps", ["thread_1", "run_1"]],
    ["are a vector store's file's", "/v1/vector_stores/vs_1/files/file-2", ["vs_1", "file-2"]],
    ["are a container's file's", "/v1/containers/cntr_1/files/cfile_1/content", ["cntr_1", "cfile_1"]],
    ["are a fine-tuning job's", "/v1/fine_tuning/jobs/ftjob-1/events", ["ftjob-1"]],
    ["are an assistant's", "/v1/assistants/asst_1", ["asst_1"]],
    ["are a video's", "/v1/videos/video_1/remix", ["video_1"]],
    ["are a stored chat's", "/v1/chat/completions/chatcmpl-1/messages", ["chatcmpl-1"]],
    ["are not a version's number", "/v1/skills/skill_1/versions/1759178010641129", ["skill_1"]],
    ["are no verbs", "/v1/threads/runs", []],
    ["are no verbs either", "/v1/responses/input_tokens", []],
    ["are a batch's of messages", "/v1/messages/batches/msgbatch_1/results", ["msgbatch_1"]],
    ["are a Gemini file's", "/v1beta/files/abc-123:download", ["abc-123"]],
    ["are a cached content's", "/v1beta/cachedContents/x7", []],
    ["are a cached content's, of the usual length", "/v1beta/cachedContents/m7qcs94x", ["m7qcs94x"]],
    ["are an operation's, not its model's", "/v1beta/models/veo-3/operations/op77", ["op77"]],
    ["are a store's to upload to", "/upload/v1beta/fileSearchStores/st-1:uploadToFileSearchStore", ["st-1"]],
    ["are written with an escape", "/v1/files/file%2Dabc", ["file-abc"]],
    ["are written with an escape that is none", "/v1/files/%zz", []],
    [
      "are those of Mistral's jobs",
      "/v1/batch/jobs/0b1e6a58-7b1f-4f7e-9d4f-0123456789ab",
      ["0b1e6a58-7b1f-4f7e-9d4f-0123456789ab"],
    ],
    ["are where a list goes on", "/v1/files?limit=20&after=file-9", ["file-9"]],
    ["are where a list of Anthropic's goes on", "/v1/files?after_id=file_9", ["file_9"]],
    ["are the mark of Gemini's next page", "/v1beta/files?pageToken=Q0FB%2Fxyz=", ["xyz="]],
    ["are a generation's", "/api/v1/generation?id=gen-17", ["gen-17"]],
  ];
  test.each(rows)("%s", (_, target, ids) => {
    const [path = "", query] = target.split("?");
    expect(idsAddressed(path, query === undefined ? "" : `?${query}`)).toEqual(ids);
  });
});

describe("an answer tells of", () => {
  const rows: [says: string, request: string, answer: unknown, ids: string[]][] = [
    ["a file", "POST /v1/files", { id: "file-1ab", object: "file", filename: "a/b.txt" }, ["file-1ab"]],
    [
      "a file in a list",
      "GET /v1/files",
      { object: "list", data: [{ id: "file-1" }, { id: "file-2" }] },
      ["file-1", "file-2"],
    ],
    [
      "an upload that is complete, and its file",
      "POST /v1/uploads/upload_1/complete",
      { id: "upload_1", file: { id: "file-1", object: "file" } },
      ["upload_1", "file-1"],
    ],
    [
      "a part of an upload",
      "POST /v1/uploads/upload_1/parts",
      { id: "part_1", upload_id: "upload_1" },
      ["part_1"],
    ],
    [
      "a batch and its files",
      "GET /v1/batches/batch_1",
      {
        id: "batch_1",
        input_file_id: "file-1",
        output_file_id: "file-2",
        error_file_id: null,
        metadata: { id: "my-own-1" },
      },
      ["batch_1", "file-1", "file-2"],
    ],
    [
      "the batches of a list and their files",
      "GET /v1/batches",
      { data: [{ id: "batch_1", output_file_id: "file-2" }], first_id: "batch_1" },
      ["batch_1", "file-2"],
    ],
    [
      "a response, its conversation and its first items",
      "POST /v1/responses",
      {
        id: "resp_1",
        conversation: { id: "conv_1" },
        output: [
          { type: "reasoning", id: "rs_1", encrypted_content: `gAAAAAB${"x".repeat(100)}` },
          { id: "msg_1", content: [{ type: "output_text", text: '"id":"file-7"' }] },
          { id: "msg_2" },
        ],
        metadata: { id: "my own" },
      },
      ["resp_1", "conv_1", "rs_1", "msg_1", `gAAAAAB${"x".repeat(41)}`],
    ],
    ["a conversation", "POST /v1/conversations", { id: "conv_1", object: "conversation" }, ["conv_1"]],
    ["a thread", "POST /v1/threads", { id: "thread_1", metadata: { thread_id: "mine" } }, ["thread_1"]],
    [
      "a run, its thread and its assistant",
      "POST /v1/threads/runs",
      { id: "run_1", thread_id: "thread_1", assistant_id: "asst_1", tools: [{ type: "file_search" }] },
      ["run_1", "thread_1", "asst_1"],
    ],
    ["a vector store", "POST /v1/vector_stores", { id: "vs_1", name: "docs/mine" }, ["vs_1"]],
    [
      "a file of a vector store",
      "POST /v1/vector_stores/vs_1/files",
      { id: "file-1", vector_store_id: "vs_1" },
      ["file-1", "vs_1"],
    ],
    ["a container", "POST /v1/containers", { id: "cntr_1", file_ids: ["file-1"] }, ["cntr_1", "file-1"]],
    [
      "a fine-tuning job and its files",
      "POST /v1/fine_tuning/jobs",
      { id: "ftjob-1", training_file: "file-1", validation_file: null, result_files: ["file-2"] },
      ["ftjob-1", "file-1", "file-2"],
    ],
    ["an assistant", "POST /v1/assistants", { id: "asst_1", tools: [] }, ["asst_1"]],
    ["a video", "POST /v1/videos", { id: "video_1", object: "video" }, ["video_1"]],
    [
      "a stored chat",
      "POST /v1/chat/completions",
      { id: "chatcmpl-1", choices: [{ id: "call_1" }] },
      ["chatcmpl-1"],
    ],
    [
      "a batch of messages",
      "POST /v1/messages/batches",
      {
        id: "msgbatch_1",
        type: "message_batch",
        results_url: "https://x/v1/messages/batches/msgbatch_1/results",
      },
      ["msgbatch_1"],
    ],
    ["a file of Anthropic's", "POST /v1/files", { type: "file", id: "file_011C" }, ["file_011C"]],
    [
      "the container of a message, and nothing else of it",
      "POST /v1/messages",
      { id: "msg_1", content: [{ type: "tool_use", id: "toolu_1" }], container: { id: "container_1" } },
      ["container_1"],
    ],
    [
      "a file uploaded to Gemini",
      "POST /upload/v1beta/files",
      { file: { name: "files/abc-123", uri: "https://g/v1beta/files/abc-123", displayName: "my/file" } },
      ["abc-123"],
    ],
    [
      "Gemini's files, and where their list goes on",
      "GET /v1beta/files",
      { files: [{ name: "files/abc" }, { name: "files/def" }], nextPageToken: "Q0FB/xyz=" },
      ["abc", "def", "xyz="],
    ],
    [
      "cached content",
      "POST /v1beta/cachedContents",
      { name: "cachedContents/m7q", model: "models/x" },
      ["m7q"],
    ],
    ["a batch of Gemini's", "POST /v1beta/models/m:batchGenerateContent", { name: "batches/b77" }, ["b77"]],
    [
      "an operation",
      "POST /v1beta/models/veo:predictLongRunning",
      { name: "models/veo/operations/op7" },
      ["op7"],
    ],
    ["an interaction", "POST /v1beta/interactions", { id: "v1_ChdPU0F4", steps: [] }, ["v1_ChdPU0F4"]],
    [
      "what has an id of another kind",
      "POST /v1/batch/jobs",
      { id: "0b1e6a58-7b1f-4f7e-9d4f-0123456789ab", output_file: "9b1e6a58-7b1f-4f7e-9d4f-0123456789ab" },
      ["0b1e6a58-7b1f-4f7e-9d4f-0123456789ab", "9b1e6a58-7b1f-4f7e-9d4f-0123456789ab"],
    ],
    ["nothing where it hands out content", "GET /v1/files/file-1/content", { id: "file-9" }, []],
    ["nothing where it tells of an end", "DELETE /v1/files/file-1", { id: "file-1", deleted: true }, []],
    ["nothing where it is no object", "GET /v1/files", 5, []],
    ["nothing where it has no ids", "GET /v1/files", { data: [null, 1, ["x"]], id: "with blanks in it" }, []],
  ];
  test.each(rows)("P35 %s", (_, request, answer, ids) => {
    const [method = "", path = ""] = request.split(" ");
    expect(learnIds(path, method, json(answer))).toEqual(ids);
    // Laid out for people it tells the same.
    expect(learnIds(path, method, bytes(JSON.stringify(answer, null, 2)))).toEqual(ids);
  });

  test("P35 what stands in its beginning, where it has not come whole", () => {
    const list = JSON.stringify({ data: [{ id: "file-1" }, { id: "file-2" }, { id: "file-3" }] });
    expect(learnIds("/v1/files", "GET", bytes(list.slice(0, -6)))).toEqual(["file-1", "file-2"]);
    const run = JSON.stringify({ id: "run_1", instructions: "x".repeat(100) });
    expect(learnIds("/v1/threads/runs", "POST", bytes(run.slice(0, 60)))).toEqual(["run_1"]);
  });

  test("P35 a thousand things of a list, and not more", () => {
    const endless = { data: Array.from({ length: 3000 }, (_, index) => ({ id: `file-${index}` })) };
    expect(learnIds("/v1/files", "GET", json(endless))).toHaveLength(1000);
  });
});

describe("a stream", () => {
  const mark = (letter: string) => `gAAAAAB${letter.repeat(41)}`;
  const event = (value: { type: string }) => `event: ${value.type}\ndata: ${JSON.stringify(value)}\n\n`;
  const response = {
    id: "resp_1",
    conversation: { id: "conv_1" },
    instructions: 'say "id":"resp_9"',
    output: [],
  };
  const reasoning = { id: "rs_1", type: "reasoning", encrypted_content: mark("y") + "z".repeat(500) };
  const stream = [
    event({ type: "response.created", ...{ sequence_number: 0, response } }),
    event({
      type: "response.output_item.added",
      ...{ item: { ...reasoning, encrypted_content: mark("x") } },
    }),
    event({ type: "response.output_item.done", ...{ item: reasoning } }),
    event({ type: "response.output_text.delta", ...{ item_id: "msg_7", delta: '{"id":"file-7"}' } }),
    event({ type: "response.output_item.done", ...{ item: { id: "msg_1", content: [] } } }),
    event({ type: "response.completed", ...{ response: { ...response, output: [reasoning] } } }),
  ].join("");
  const expected = ["resp_1", "conv_1", "rs_1", "msg_1", mark("x"), mark("y")];

  test("P35 tells of its response in the first event", () => {
    const first = stream.slice(0, stream.indexOf("\n\n") + 2);
    expect(learnIdsOfStream("/v1/responses", bytes(first))).toEqual(["resp_1", "conv_1"]);
  });

  test("P35 tells of its items and what is encrypted, each once, wherever it is cut", () => {
    const whole = bytes(stream);
    for (let cut = 0; cut <= whole.length; cut++) {
      const ids = new StreamIds("/v1/responses");
      const told = [...ids.push(whole.subarray(0, cut)), ...ids.push(whole.subarray(cut))];
      expect(told.toSorted()).toEqual(expected.toSorted());
    }
  });

  test("P35 tells the same byte by byte", () => {
    const ids = new StreamIds("/v1/responses");
    const told = Array.from(bytes(stream), (byte) => ids.push(Uint8Array.of(byte))).flat();
    expect(told.toSorted()).toEqual(expected.toSorted());
  });

  test("P35 of a chat tells of the chat alone, and then no more", () => {
    const chunk = bytes(
      `data: {"id":"chatcmpl-1","choices":[{"delta":{"tool_calls":[{"id":"call_1"}]}}]}\n\n`,
    );
    const ids = new StreamIds("/v1/chat/completions");
    expect(ids.push(chunk)).toEqual(["chatcmpl-1"]);
    expect(ids.isDone).toBeTrue();
    expect(ids.push(chunk)).toEqual([]);
  });

  test("P35 of a message tells of its container, however late it comes", () => {
    const ids = new StreamIds("/v1/messages");
    expect(ids.push(bytes(`data: {"type":"message_start","message":{"id":"msg_1"}}\n\n`))).toEqual([]);
    const delta = `data: {"type":"message_delta","delta":{"container":{"id":"container_1"}}}\n\n`;
    expect(ids.push(bytes(delta))).toEqual(["container_1"]);
  });

  test("P35 of a run tells of its thread and itself", () => {
    const created = `event: thread.created\ndata: {"id":"thread_1"}\n\nevent: thread.run.created\ndata: {"id":"run_1"}\n\n`;
    expect(learnIdsOfStream("/v1/threads/runs", bytes(created))).toEqual(["thread_1", "run_1"]);
  });
});

describe("a deletion", () => {
  const rows: [says: string, request: string, id: string | null][] = [
    ["ends a file", "DELETE /v1/files/file-1", "file-1"],
    ["ends a Gemini file", "DELETE /v1beta/files/abc-123", "abc-123"],
    ["leaves the file that it takes out of a store", "DELETE /v1/vector_stores/vs_1/files/file-1", null],
    ["ends no model", "DELETE /v1/models/ft:gpt-4o:me::1", null],
    ["is not a look", "GET /v1/files/file-1", null],
  ];
  test.each(rows)("%s", (_, request, id) => {
    const [method = "", path = ""] = request.split(" ");
    expect(idEndedBy(path, method)).toBe(id);
  });
});

describe("what belongs to the home account", () => {
  const form = (purpose: string) =>
    `--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n${"data ".repeat(2000)}\r\n--x\r\n` +
    `Content-Disposition: form-data; name="purpose"\r\n\r\n${purpose}\r\n--x--\r\n`;
  const rows: [says: string, request: string, body: string | null, isHome: boolean][] = [
    ["is a list", "GET /v1/batches", null, true],
    ["is a file for prompts", "POST /v1/files", form("user_data"), true],
    ["is no file for a batch", "POST /v1/files", form("batch"), false],
    ["is no upload for a batch", "POST /v1/uploads", '{"purpose": "batch"}', false],
    ["is a vector store", "POST /v1/vector_stores", "{}", true],
    ["is a thread", "POST /v1/threads", null, true],
    ["is no batch", "POST /v1/batches", "{}", false],
    ["is no response", "POST /v1/responses", "{}", false],
    ["is no conversation", "POST /v1/conversations", "{}", false],
    ["is nothing that names a thing", "GET /v1/files/file-1", null, false],
    ["is no chat", "POST /v1/chat/completions", "{}", false],
  ];
  test.each(rows)("%s", (_, request, body, isHome) => {
    const [method = "", path = ""] = request.split(" ");
    expect(prefersMainAccount(path, method, body === null ? null : bytes(body))).toBe(isHome);
  });
});

describe("a body made to be slow to search", () => {
  const MB = 2 ** 20;
  const hostile: [what: string, text: (bytes: number) => string][] = [
    ["lists of file ids in each other", (bytes) => '{"file_ids":['.repeat(bytes / 13)],
    ["objects with file ids in each other", (bytes) => '{"file_id":{"a":'.repeat(bytes / 16)],
    ["arrays in each other behind a field", (bytes) => `{"vector_store_ids":${"[".repeat(bytes)}`],
    ["references without an object", (bytes) => '"item_reference",'.repeat(bytes / 17)],
    ["blanks before each value", (bytes) => `{${`"file_id"${" ".repeat(4000)}:`.repeat(bytes / 4010)}`],
    ["fields that ask to store", (bytes) => `{${'"store"{'.repeat(bytes / 8)}`],
    ["zero bytes", (bytes) => "\0".repeat(bytes)],
    ["quotation marks", (bytes) => '"file_id"'.repeat(bytes / 9)],
  ];
  const paths = ["/v1/responses", "/v1/chat/completions", "/v1/messages", "/v1/vector_stores", "/v1/threads"];
  test.each(hostile)("P42 %s: looked at in linear time", (_, text) => {
    for (const bytes of [MB, 2 * MB, 4 * MB]) {
      const body = new TextEncoder().encode(text(bytes));
      const beganAt = performance.now();
      for (const path of paths) {
        idsIn(path, "", "POST", body);
        asksToKeep(path, body);
      }
      // Once over 4 MB is some milliseconds for each path; what is not linear took 18 s.
      expect(performance.now() - beganAt).toBeLessThan(1500);
    }
  });
});
