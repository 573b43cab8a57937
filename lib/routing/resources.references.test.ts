import { describe, expect, test } from "bun:test";
import { idsIn, idsProvenBy, saysMissing } from "./resources.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

/** The ids of a request like `POST /v1/files?after=x` with a body. */
function idsOf(request: string, body: unknown): string[] {
  const [method = "", target = ""] = request.split(" ");
  const [path = "", query] = target.split("?");
  const text = body === null || typeof body === "string" ? body : JSON.stringify(body);
  return idsIn(path, query === undefined ? "" : `?${query}`, method, text === null ? null : bytes(text));
}

const encrypted = (letter: string) => `gAAAAAB${letter.repeat(200)}`;
const markOf = (letter: string) => encrypted(letter).slice(0, 48);

describe("a request refers to", () => {
  const rows: [says: string, request: string, body: unknown, ids: string[]][] = [
    ["what its path names", "GET /v1/files/file-1", null, ["file-1"]],
    ["where its list goes on", "GET /v1/files?after=file-9", null, ["file-9"]],
    [
      "the thread, before what its body names",
      "POST /v1/threads/thread_1/runs",
      { assistant_id: "asst_1" },
      ["thread_1", "asst_1"],
    ],
    ["nothing where it asks for no more than text", "POST /v1/chat/completions", { messages: [] }, []],
    [
      "the file of a chat",
      "POST /v1/chat/completions",
      { messages: [{ content: [{ type: "file", file: { file_id: "file-1" } }] }] },
      ["file-1"],
    ],
    [
      "the file of a chat, not what a prompt says of another",
      "POST /v1/chat/completions",
      {
        messages: [{ content: '"file_id":"file-2", {"file_id": "file-3"}' }, { file: { file_id: "file-1" } }],
      },
      ["file-1"],
    ],
    [
      "no file that a tool's own arguments name",
      "POST /v1/chat/completions",
      { arguments: '{"file_id":"f-1"}' },
      [],
    ],
    [
      "no file of which a schema tells",
      "POST /v1/chat/completions",
      { tools: [{ file_id: { type: "string" } }] },
      [],
    ],
    [
      "the file of a form",
      "POST /v1/images/edits",
      '--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B\r\nContent-Disposition: form-data; name="file_id"\r\n\r\nfile-1\r\n--B--\r\n',
      ["file-1"],
    ],
    [
      "the files of a form that is written in other ways",
      "POST /v1/containers/cntr_1/files",
      "--B\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name=file_ids[]\r\nX-A: b\r\n\r\nfile-1\r\n--B--\r\n",
      ["cntr_1", "file-1"],
    ],
    [
      "the file of a form behind a long one that it sends",
      "POST /v1/images/edits",
      `--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n${"x".repeat(100_000)}\r\n--B\r\nContent-Disposition: form-data; name="file_id"\r\n\r\nfile-1\r\n--B--\r\n`,
      ["file-1"],
    ],
    [
      "no file of which another field of a form speaks",
      "POST /v1/images/edits",
      '--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nfile_id file-1\r\n--B--\r\n',
      [],
    ],
    [
      "the file of what has a path of its own",
      "POST /v1/images/edits",
      { images: [{ file_id: "file-1" }], model: "m" },
      ["file-1"],
    ],
    ["nothing of an embedding", "POST /v1/embeddings", { input: "a", file_id: "file-1" }, []],
    ["nothing else of a chat", "POST /v1/chat/completions", { previous_response_id: "resp_1" }, []],
    [
      "the previous response",
      "POST /v1/responses",
      { previous_response_id: "resp_1", input: "hi" },
      ["resp_1"],
    ],
    ["a conversation by its id", "POST /v1/responses", { conversation: "conv_1" }, ["conv_1"]],
    ["a conversation as an object", "POST /v1/responses", { conversation: { id: "conv_1" } }, ["conv_1"]],
    [
      "items that it only names, the latest first",
      "POST /v1/responses",
      {
        input: [
          { type: "item_reference", id: "fc_1" },
          { id: "msg_2", type: "item_reference" },
        ],
      },
      ["msg_2", "fc_1"],
    ],
    [
      "reasoning by its id, and no item that is there in full",
      "POST /v1/responses",
      {
        input: [
          { type: "reasoning", id: "rs_1", summary: [] },
          { type: "message", id: "msg_1", role: "assistant", content: "say \"rs_2\" or 'rs_3'" },
          { type: "function_call", id: "fc_1", call_id: "call_1", name: "rs_4" },
        ],
      },
      ["rs_1"],
    ],
    [
      "an image by its id",
      "POST /v1/responses",
      { input: [{ type: "image_generation_call", id: "ig_1" }] },
      ["ig_1"],
    ],
    [
      "reasoning that only its organization can read",
      "POST /v1/responses",
      { store: false, input: [{ encrypted_content: encrypted("x") }, { encrypted_content: encrypted("y") }] },
      [markOf("y"), markOf("x")],
    ],
    [
      "the files of a response, wherever they are",
      "POST /v1/responses",
      {
        input: [{ content: [{ type: "input_file", file_id: "file-1" }] }],
        tools: [
          { type: "file_search", vector_store_ids: ["vs_1", "vs_2"] },
          { type: "code_interpreter", container: { type: "auto", file_ids: ["file-2"] } },
          { type: "code_interpreter", container: "cntr_1" },
        ],
      },
      ["cntr_1", "vs_1", "vs_2", "file-2", "file-1"],
    ],
    [
      "the same before it is sent",
      "POST /v1/responses/input_tokens",
      { previous_response_id: "resp_1" },
      ["resp_1"],
    ],
    [
      "the file of a batch",
      "POST /v1/batches",
      { input_file_id: "file-1", endpoint: "/v1/responses" },
      ["file-1"],
    ],
    [
      "the files of a fine-tuning job",
      "POST /v1/fine_tuning/jobs",
      { training_file: "file-1", validation_file: "file-2", model: "gpt-4o" },
      ["file-1", "file-2"],
    ],
    [
      "the files of a vector store",
      "POST /v1/vector_stores",
      { file_ids: ["file-1", "file-2"] },
      ["file-1", "file-2"],
    ],
    [
      "the file of a store's file",
      "POST /v1/vector_stores/vs_1/files",
      { file_id: "file-1" },
      ["vs_1", "file-1"],
    ],
    [
      "what an assistant works with",
      "POST /v1/assistants",
      {
        tool_resources: {
          file_search: { vector_store_ids: ["vs_1"] },
          code_interpreter: { file_ids: ["file-1"] },
        },
      },
      ["vs_1", "file-1"],
    ],
    [
      "the upload that a part belongs to",
      "POST /v1/uploads/upload_1/parts",
      '--x\r\n"file_id":"file-1"',
      ["upload_1"],
    ],
    ["nothing where a file is uploaded", "POST /v1/files", '--x\r\n\r\n{"file_id":"file-1"}\r\n--x--', []],
    [
      "a file of Anthropic's, and the container to go on in",
      "POST /v1/messages",
      {
        container: "container_1",
        messages: [{ content: [{ source: { type: "file", file_id: "file_1" } }] }],
      },
      ["container_1", "file_1"],
    ],
    [
      "the same where tokens are counted",
      "POST /v1/messages/count_tokens",
      { s: { file_id: "file_1" } },
      ["file_1"],
    ],
    [
      "the files of a batch of messages",
      "POST /v1/messages/batches",
      { requests: [{ params: { messages: [{ content: [{ source: { file_id: "file_1" } }] }] } }] },
      ["file_1"],
    ],
    [
      "Gemini's files and cached content",
      "POST /v1beta/models/gemini-2.5-pro:generateContent",
      {
        cachedContent: "cachedContents/m7q",
        contents: [{ parts: [{ fileData: { fileUri: "https://g.example/v1beta/files/abc" } }] }],
      },
      ["m7q", "abc"],
    ],
    [
      "Gemini's files in the other spelling, slashes escaped",
      "POST /v1beta/models/gemini-2.5-pro:streamGenerateContent",
      '{"contents":[{"parts":[{"file_data":{"file_uri":"https:\\/\\/g.example\\/v1beta\\/files\\/abc"}}]}]}',
      ["abc"],
    ],
    [
      "no film of the web",
      "POST /v1beta/models/gemini-2.5-pro:generateContent",
      { contents: [{ parts: [{ fileData: { fileUri: "https://video.example/watch?v=abc" } }] }] },
      [],
    ],
    [
      "Gemini's stores",
      "POST /v1beta/models/gemini-2.5-pro:generateContent",
      { tools: [{ fileSearch: { fileSearchStoreNames: ["fileSearchStores/s-1"] } }] },
      ["s-1"],
    ],
    [
      "the interaction before",
      "POST /v1beta/interactions",
      {
        previous_interaction_id: "v1_Ch",
        input: [{ type: "document", uri: "https://g.example/v1beta/files/abc" }],
      },
      ["v1_Ch", "abc"],
    ],
    [
      "the files of Mistral's batch",
      "POST /v1/batch/jobs",
      { input_files: ["0b1e6a58-7b1f"] },
      ["0b1e6a58-7b1f"],
    ],
    [
      "nothing that is no id",
      "POST /v1/responses",
      { conversation: "two words", container: 7, file_ids: [{}] },
      [],
    ],
    ["nothing where its body is no JSON", "POST /v1/responses", "previous_response_id=resp_1", []],
    [
      "what stands before it breaks off",
      "POST /v1/responses",
      '{"previous_response_id":"resp_1","input',
      ["resp_1"],
    ],
    ["nothing where an id breaks off", "POST /v1/responses", '{"previous_response_id":"resp_', []],
    ["nothing by a body of GET", "GET /v1/responses", { previous_response_id: "resp_1" }, []],
    ["nothing where text is embedded", "POST /v1/embeddings", { file_id: "file-1" }, []],
  ];
  test.each(rows)("P35 %s", (_, request, body, ids) => {
    expect(idsOf(request, body)).toEqual(ids);
    if (typeof body === "object" && body !== null)
      expect(idsOf(request, JSON.stringify(body, null, 2))).toEqual(ids);
  });

  test("P35 no more than 64 things, and the latest 16 of many turns", () => {
    const files = Array.from({ length: 500 }, (_, index) => ({ file_id: `file-${index}` }));
    expect(idsOf("POST /v1/chat/completions", { files })).toHaveLength(64);
    const input = Array.from({ length: 500 }, (_, index) => ({ type: "reasoning", id: `rs_${index}` }));
    expect(idsOf("POST /v1/responses", { input })).toEqual(
      Array.from({ length: 16 }, (_, index) => `rs_${499 - index}`),
    );
  });

  test("P35 things in bodies cut anywhere, without failing", () => {
    const body = bytes(
      JSON.stringify({
        conversation: { id: "conv_1" },
        input: [
          { id: "rs_1" },
          { type: "item_reference", id: "fc_1" },
          { encrypted_content: encrypted("x") },
        ],
        tools: [{ vector_store_ids: ["vs_1"], container: { file_ids: ["file-1"] } }],
      }),
    );
    const whole = ["conv_1", "fc_1", "rs_1", markOf("x"), "vs_1", "file-1"];
    expect(idsIn("/v1/responses", "", "POST", body)).toEqual(whole);
    for (let end = 0; end < body.length; end++) {
      const ids = idsIn("/v1/responses", "", "POST", body.subarray(0, end));
      expect(ids.filter((id) => !whole.includes(id))).toEqual([]);
    }
  });
});

describe("a good answer proves", () => {
  const rows: [says: string, path: string, ids: string[], proven: string[]][] = [
    ["what a provider has named", "/v1/responses", ["resp_1", "file-2"], ["resp_1", "file-2"]],
    ["what its path names", "/v1beta/files/abc123def/content", ["abc123def"], ["abc123def"]],
    ["not what a user may have named", "/v1/responses", ["my-thread", "0b1e6a58"], []],
    ["not what may be a verb", "/v1/files/summarize", ["summarize"], []],
    ["that what is encrypted can be read", "/v1/responses", [markOf("x")], [markOf("x")]],
  ];
  test.each(rows)("P35 %s", (_, path, ids, proven) => {
    expect(idsProvenBy(path, ids)).toEqual(proven);
  });
});

describe("an answer says that a thing is not with this account", () => {
  const openai = (message: string, code: string | null = null) =>
    JSON.stringify({ error: { message, type: "invalid_request_error", param: null, code } });
  const gemini = (message: string) =>
    JSON.stringify({ error: { code: 403, message, status: "PERMISSION_DENIED" } });
  const rows: [
    says: string,
    request: string,
    status: number,
    body: string,
    unknown: string[],
    isSo: boolean,
  ][] = [
    ["where its path is not found", "/v1/files/file-1", 404, "", ["file-1"], true],
    [
      "not where its account is known",
      "/v1/files/file-1",
      404,
      openai("No such File object: file-1"),
      [],
      false,
    ],
    [
      "not where nothing was referred to",
      "/v1/chat/completions",
      404,
      openai("The model `x` does not exist"),
      [],
      false,
    ],
    [
      "not where a model is missing, whatever else was referred to",
      "/v1/chat/completions",
      404,
      openai("The model `x` does not exist or you do not have access to it.", "model_not_found"),
      ["file-1"],
      false,
    ],
    [
      "where a response before it is missing",
      "/v1/responses",
      400,
      openai("Previous response with id 'resp_1' not found.", "previous_response_not_found"),
      ["resp_1"],
      true,
    ],
    [
      "where it is told tersely",
      "/v1/responses",
      400,
      openai("Invalid `previous_response_id`."),
      ["resp_1"],
      true,
    ],
    [
      "where an item is missing",
      "/v1/responses",
      404,
      openai("Item with id 'rs_1' not found. Items are not persisted when `store` is set to false."),
      ["rs_1"],
      true,
    ],
    [
      "where what is encrypted cannot be read",
      "/v1/responses",
      400,
      openai("The encrypted content gAAA...x could not be verified.", "invalid_encrypted_content"),
      [markOf("x")],
      true,
    ],
    ["where a file is missing", "/v1/batches", 400, openai("No such File object: file-1"), ["file-1"], true],
    [
      "where a resource of Azure's does not own it",
      "/openai/v1/responses",
      400,
      openai("Files [assistant-1] were not found due to ownership verification failure."),
      ["assistant-1"],
      true,
    ],
    ["where a file is named by nobody", "/v1/messages", 404, openai("File not found."), ["file_1"], true],
    [
      "where Gemini denies a file",
      "/v1beta/models/m:generateContent",
      403,
      gemini("You do not have permission to access the File abc or it may not exist."),
      ["abc"],
      true,
    ],
    [
      "where Gemini denies cached content",
      "/v1beta/models/m:generateContent",
      403,
      gemini("CachedContent not found (or permission denied)"),
      ["m7q"],
      true,
    ],
    [
      "not where Gemini denies all",
      "/v1beta/models/m:generateContent",
      403,
      gemini("permission denied"),
      ["abc"],
      false,
    ],
    ["not where a file is only bad", "/v1/responses", 400, openai("file-1 is no PDF."), ["file-1"], false],
    ["not where upstream failed", "/v1/files/file-1", 500, "", ["file-1"], false],
    ["not where it is there", "/v1/files/file-1", 200, "", ["file-1"], false],
  ];
  test.each(rows)("P35 %s", (_, path, status, body, unknown, isSo) => {
    expect(saysMissing({ status, body }, path, "", unknown)).toBe(isSo);
  });
});
