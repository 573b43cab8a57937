/** What to write where, for each tool. Pure. */

const TRIED = "Tried with";
const READ = "From its documentation, November 2026.";
const CONTAINER =
  "In a container 127.0.0.1 is the container itself: use host.docker.internal or this machine's address there.";

/**
 * Every tool, with `where` it goes, the `text`, and a `note`. `base` ends in /v1, `root` does not.
 *
 * @returns {Record<string, { group: string, where: string, text: string, note?: string, known: string }>}
 */
export function snippetsOf({ base, root, key, model }) {
  const json = (value) => JSON.stringify(value, null, 2);
  const compatible = (more = {}) => ({
    npm: "@ai-sdk/openai-compatible",
    name: "keywheel",
    options: { baseURL: base, apiKey: key },
    models: { [model]: {} },
    ...more,
  });
  const agent = "Coding agents";
  const chat = "Chat, home and automation";
  const code = "Your own code";
  return {
    "Claude Code": {
      group: agent,
      where: "In the shell, or under env in ~/.claude/settings.json",
      text: `export ANTHROPIC_BASE_URL=${root}
export ANTHROPIC_AUTH_TOKEN=${key}
unset ANTHROPIC_API_KEY
claude --model ${model}`,
      note: "Without /v1 at the end. The provider has to speak Anthropic's API: Anthropic itself, DeepSeek, Kimi, Z.ai and others have an address for it.",
      known: `${TRIED} claude 2.1.`,
    },
    Codex: {
      group: agent,
      where: "~/.codex/config.toml",
      text: `model = "${model}"
model_provider = "keywheel"

[model_providers.keywheel]
name = "keywheel"
base_url = "${base}"
env_key = "KEYWHEEL_KEY"
wire_api = "responses"`,
      note: `Put ${key} into the environment variable KEYWHEEL_KEY. The provider has to have /v1/responses.`,
      known: `${TRIED} codex 0.171.`,
    },
    opencode: {
      group: agent,
      where: "~/.config/opencode/opencode.json",
      text: json({ model: `keywheel/${model}`, provider: { keywheel: compatible() } }),
      known: `${TRIED} opencode 1.18.`,
    },
    "Qwen Code": {
      group: agent,
      where: "In the shell",
      text: `export OPENAI_BASE_URL=${base}
export OPENAI_API_KEY=${key}
qwen --auth-type openai --model ${model}`,
      known: `${TRIED} qwen 0.24.`,
    },
    Continue: {
      group: agent,
      where: "~/.continue/config.yaml",
      text: `name: keywheel
version: 1.0.0
schema: v1
models:
  - name: ${model}
    provider: openai
    model: ${model}
    apiBase: ${base}
    apiKey: ${key}
    roles: [chat, edit, apply]
    capabilities: [tool_use]`,
      known: `${TRIED} cn 1.5.`,
    },
    Cline: {
      group: agent,
      where: "In the shell",
      text: `cline auth --provider openai --apikey ${key} --modelid ${model} --baseurl ${base}`,
      note: "In VS Code: settings of Cline, API provider OpenAI Compatible, and the same three values.",
      known: `${TRIED} cline 3.0.`,
    },
    "Kilo Code": {
      group: agent,
      where: "~/.config/kilo/kilo.json",
      text: json({ model: `keywheel/${model}`, provider: { keywheel: compatible() } }),
      note: "In VS Code: Settings, Providers, OpenAI Compatible, and the same three values.",
      known: `${TRIED} kilo 7.7.`,
    },
    Aider: {
      group: agent,
      where: "In the shell",
      text: `export OPENAI_API_BASE=${base}
export OPENAI_API_KEY=${key}
aider --model openai/${model}`,
      known: `${TRIED} aider 0.86.`,
    },
    Goose: {
      group: agent,
      where: "In the shell",
      text: `export GOOSE_PROVIDER=openai
export GOOSE_MODEL=${model}
export OPENAI_HOST=${root}
export OPENAI_BASE_PATH=v1/chat/completions
export OPENAI_API_KEY=${key}
goose session`,
      known: READ,
    },
    Crush: {
      group: agent,
      where: "~/.config/crush/crush.json",
      text: json({
        providers: {
          keywheel: {
            type: "openai-compat",
            base_url: base,
            api_key: key,
            models: [{ id: model, name: model, context_window: 128_000, default_max_tokens: 8000 }],
          },
        },
      }),
      known: READ,
    },
    Zed: {
      group: agent,
      where: "settings.json of Zed",
      text: json({
        language_models: {
          openai_compatible: {
            keywheel: {
              api_url: base,
              available_models: [{ name: model, display_name: model, max_tokens: 128_000 }],
            },
          },
        },
      }),
      note: `Give ${key} as the key of this provider in Zed's agent settings, or as KEYWHEEL_API_KEY in its environment.`,
      known: READ,
    },
    OpenClaw: {
      group: agent,
      where: "~/.openclaw/openclaw.json",
      text: json({
        agents: { defaults: { model: { primary: `keywheel/${model}` } } },
        models: {
          providers: {
            keywheel: {
              baseUrl: base,
              apiKey: key,
              api: "openai-completions",
              models: [{ id: model, name: model }],
            },
          },
        },
      }),
      known: `${TRIED} openclaw 2026.9.`,
    },
    PicoClaw: {
      group: agent,
      where: "~/.picoclaw/config.json",
      text: json({
        agents: { defaults: { model_name: "keywheel" } },
        model_list: [{ model_name: "keywheel", model: `openai/${model}`, api_base: base, api_keys: [key] }],
      }),
      known: READ,
    },
    "Roo Code": {
      group: agent,
      where: "It ended in May 2026",
      text: "Roo Code is not developed any more. Kilo Code follows it: use the snippet for that.",
      known: "",
    },
    "Open WebUI": {
      group: chat,
      where: "The environment of Open WebUI",
      text: `OPENAI_API_BASE_URL=${base}
OPENAI_API_KEY=${key}`,
      note: `Or in its admin settings under Connections. ${CONTAINER}`,
      known: `${TRIED} open-webui 0.12.`,
    },
    LibreChat: {
      group: chat,
      where: "librechat.yaml",
      text: `version: 1.2.1
endpoints:
  custom:
    - name: keywheel
      apiKey: ${key}
      baseURL: ${base}
      models:
        default: [${model}]
        fetch: true
      titleConvo: true
      titleModel: ${model}`,
      note: CONTAINER,
      known: READ,
    },
    n8n: {
      group: chat,
      where: "Credentials, Add credential, OpenAI",
      text: `API Key:   ${key}
Base URL:  ${base}`,
      note: `Then choose this credential in the node OpenAI Chat Model, and give it the model ${model}. ${CONTAINER}`,
      known: READ,
    },
    "Home Assistant": {
      group: chat,
      where: "Settings, Devices & services, Add integration, Extended OpenAI Conversation",
      text: `API Key:   ${key}
Base Url:  ${base}
Model:     ${model}`,
      note: "The integration that Home Assistant brings along asks OpenAI only: this one comes from HACS. Home Assistant is another machine: keywheel needs PROXY_API_KEY.",
      known: READ,
    },
    curl: {
      group: code,
      where: "In the shell",
      text: `curl ${base}/chat/completions \\
  -H 'authorization: Bearer ${key}' \\
  -H 'content-type: application/json' \\
  -d '{"model":"${model}","messages":[{"role":"user","content":"hello"}]}'`,
      known: "",
    },
    Python: {
      group: code,
      where: "pip install openai",
      text: `from openai import OpenAI

client = OpenAI(base_url="${base}", api_key="${key}")
completion = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "hello"}],
)
print(completion.choices[0].message.content)`,
      note: `For Anthropic's SDK: Anthropic(base_url="${root}", api_key="${key}"), without /v1.`,
      known: `${TRIED} openai 3.57 and anthropic 2.14.`,
    },
    Node: {
      group: code,
      where: "npm install openai",
      text: `import OpenAI from "openai";

const openai = new OpenAI({ baseURL: "${base}", apiKey: "${key}" });
const completion = await openai.chat.completions.create({
  model: "${model}",
  messages: [{ role: "user", content: "hello" }],
});
console.log(completion.choices[0].message.content);`,
      note: `For Anthropic's SDK: new Anthropic({ baseURL: "${root}", apiKey: "${key}" }), without /v1.`,
      known: `${TRIED} openai 7.59 and @anthropic-ai/sdk 1.14.`,
    },
  };
}
