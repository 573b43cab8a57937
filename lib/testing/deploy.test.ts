import { afterAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SERVER_RUNTIME } from "../cli/startup.ts";

const ROOT = join(import.meta.dir, "../..");
const FOLDER = mkdtempSync(join(tmpdir(), "keywheel-deploy-"));
const TARGETS = ["x64", "arm64", "x64-musl", "arm64-musl"];

afterAll(() => rmSync(FOLDER, { recursive: true }));

function source(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

function run(words: string[], environment: Record<string, string> = {}, input = ""): Ended {
  const { exitCode, stdout, stderr } = Bun.spawnSync(words, {
    cwd: FOLDER,
    env: { PATH: process.env.PATH ?? "", HOME: FOLDER, ...environment },
    stdin: Buffer.from(input),
  });
  return { code: exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

const SCRIPTS: [path: string, shell: string][] = [
  ["build.sh", "bash"],
  [".ci/run", "bash"],
  ["deploy/install.sh", "sh"],
  ["deploy/deb/make.sh", "bash"],
  ["deploy/deb/postinst", "sh"],
  ["deploy/deb/prerm", "sh"],
  ["deploy/deb/postrm", "sh"],
  ["deploy/completions/keywheel.bash", "bash"],
];

describe("each script", () => {
  test.each(SCRIPTS)("%s can be read by %s", (path, shell) => {
    expect(run([shell, "-n", join(ROOT, path)])).toEqual({ code: 0, stdout: "", stderr: "" });
  });
});

// ---------------------------------------------------------------------------------- install.sh

const INSTALLER = source("deploy/install.sh");

/** A directory with programs to put in front of the PATH: name to the shell text of each. */
function programs(texts: Record<string, string>): string {
  const folder = mkdtempSync(join(FOLDER, "bin-"));
  for (const [name, text] of Object.entries(texts)) {
    writeFileSync(join(folder, name), `#!/bin/sh\n${text}\n`);
    chmodSync(join(folder, name), 0o755);
  }
  return folder;
}

/** A machine that keywheel runs on, whatever this one is. `curl` takes files from the directory `$RELEASE`. */
const MACHINE: Record<string, string> = {
  uname: 'if [ "$1" = -s ]; then echo Linux; else echo x86_64; fi',
  getconf: "echo glibc 2.36",
  grep: "exit 0",
  od: "echo 2",
  id: "echo 0",
  wget: "exit 1",
  curl: 'while [ "$1" != -o ]; do shift; done; cp "$RELEASE/${3##*/}" "$2"',
};
const LDD = (text: string) => ({ getconf: "exit 1", ldd: `echo '${text}'` });

interface Installation {
  machine?: Record<string, string>;
  words?: string[];
  environment?: Record<string, string>;
  text?: string;
}

function install({ machine = {}, words = [], environment = {}, text = INSTALLER }: Installation): Ended {
  const path = `${programs({ ...MACHINE, ...machine })}:${process.env.PATH}`;
  const settings = { PATH: path, KEYWHEEL_URL: "https://releases.example", ...environment };
  return run(["sh", "-s", "--", ...words], settings, text);
}

/** The files of a release, whose executables say only their version. `wrong`: one that is not what its sum says. */
function release(version: string, wrong: string | null = null): string {
  const folder = mkdtempSync(join(FOLDER, "release-"));
  const files = new Map(
    TARGETS.map((name) => [`keywheel-linux-${name}`, `#!/bin/sh\necho keywheel ${version} ${name}\n`]),
  );
  files.set("keywheel.service", `[Unit]\nDescription=${version}\n`);
  let sums = "";
  for (const [name, text] of files) {
    writeFileSync(join(folder, name), name === wrong ? `${text}#` : text);
    sums += `${new Bun.CryptoHasher("sha256").update(text).digest("hex")}  ${name}\n`;
  }
  writeFileSync(join(folder, "SHA256SUMS"), sums);
  return folder;
}

const REFUSED: [what: string, installation: Installation, sentence: RegExp][] = [
  [
    "a system that is not Linux",
    { machine: { uname: "echo Darwin" } },
    /runs on Linux, and this is Darwin\./,
  ],
  ["a 32-bit ARM", { machine: { uname: '[ "$1" = -s ] && echo Linux || echo armv7l' } }, /32-bit \(armv7l\)/],
  [
    "an old 32-bit ARM",
    { machine: { uname: '[ "$1" = -s ] && echo Linux || echo armv6l' } },
    /32-bit \(armv6l\)/,
  ],
  ["a 32-bit PC", { machine: { uname: '[ "$1" = -s ] && echo Linux || echo i686' } }, /32-bit \(i686\)/],
  [
    "a processor without a build",
    { machine: { uname: '[ "$1" = -s ] && echo Linux || echo riscv64' } },
    /no build for riscv64/,
  ],
  [
    "32-bit programs on a 64-bit kernel",
    { machine: { od: "echo 1" } },
    /the programs of this system are 32-bit/,
  ],
  ["a processor without SSE4.2", { machine: { grep: "exit 1" } }, /no SSE4\.2/],
  [
    "a glibc that is too old",
    { machine: { getconf: "echo glibc 2.12" } },
    /glibc 2\.12, and keywheel needs 2\.17/,
  ],
  ["the last glibc that is too old", { machine: LDD("ldd (Debian EGLIBC 2.16-1) 2.16") }, /glibc 2\.16,/],
  ["a glibc of a distant past", { machine: { getconf: "echo glibc 1.99" } }, /glibc 1\.99,/],
  ["who is not root", { machine: { id: "echo 1000" } }, /needs root\. Put sudo before sh/],
  ["to remove for who is not root", { machine: { id: "echo 1000" }, words: ["--uninstall"] }, /needs root/],
  [
    "to guess where the files are",
    { environment: { KEYWHEEL_URL: "ftp://releases.example" } },
    /Set KEYWHEEL_URL/,
  ],
  ["a word it does not know", { words: ["--force"] }, /no option --force/],
  ["to purge what it does not remove", { words: ["--purge"] }, /--purge goes with --uninstall/],
];

const CHOSEN: [what: string, machine: Record<string, string>, target: string][] = [
  ["a PC", {}, "x64"],
  ["a Pi", { uname: '[ "$1" = -s ] && echo Linux || echo aarch64', grep: "exit 1" }, "arm64"],
  ["Alpine on a PC", LDD("musl libc (x86_64)"), "x64-musl"],
  [
    "Alpine on a Pi",
    { uname: '[ "$1" = -s ] && echo Linux || echo aarch64', ...LDD("musl libc (aarch64)") },
    "arm64-musl",
  ],
  ["the oldest glibc that will do", { getconf: "echo glibc 2.17" }, "x64"],
  ["a glibc with three numbers", { getconf: "echo glibc 2.38.9000" }, "x64"],
  ["a glibc that only ldd tells of", LDD("ldd (Debian GLIBC 2.36-9+deb12u10) 2.36"), "x64"],
  ["a C library that says nothing", { getconf: "exit 1", ldd: "exit 1" }, "x64"],
];

describe("install.sh", () => {
  test.each(REFUSED)("refuses %s, with a word", (_, installation, sentence) => {
    const { code, stdout, stderr } = install(installation);
    expect(stderr).toMatch(/^install\.sh: [^\n]+\n$/);
    expect(stderr).toMatch(sentence);
    expect(stdout).toBe("");
    expect(code).toBeGreaterThan(0);
  });

  test.each(CHOSEN)("takes the right executable for %s", (_, machine, target) => {
    const DESTDIR = mkdtempSync(join(FOLDER, "root-"));
    const { code, stdout, stderr } = install({
      machine,
      environment: { DESTDIR, RELEASE: release("1.2.3") },
    });
    expect(stderr).toBe("");
    expect(stdout).toContain(`Installed keywheel 1.2.3 ${target} at ${DESTDIR}/usr/local/bin/keywheel`);
    expect(code).toBe(0);
    expect(source(`build.sh`)).toContain(`    ${target}) echo `);
  });

  test("installs a newer version, keeps the settings, and removes both when asked", () => {
    const DESTDIR = mkdtempSync(join(FOLDER, "root-"));
    const executable = join(DESTDIR, "usr/local/bin/keywheel");
    const unit = join(DESTDIR, "etc/systemd/system/keywheel.service");
    const settings = join(DESTDIR, "etc/keywheel/.env");
    const at = (RELEASE: string, words: string[] = []) =>
      install({ words, environment: { DESTDIR, RELEASE } });

    expect(at(release("1.0.0")).code).toBe(0);
    writeFileSync(settings, "PORT=1\n");
    expect(at(release("2.0.0")).code).toBe(0);
    expect(run([executable]).stdout).toBe("keywheel 2.0.0 x64\n");
    expect(readFileSync(unit, "utf8")).toContain("2.0.0");
    expect(readFileSync(settings, "utf8")).toBe("PORT=1\n");
    expect(statSync(join(DESTDIR, "etc/keywheel")).mode & 0o777).toBe(0o750);

    expect(at("", ["--uninstall"]).code).toBe(0);
    expect([executable, unit, settings].map(existsSync)).toEqual([false, false, true]);
    expect(at("", ["--uninstall", "--purge"]).code).toBe(0);
    expect(existsSync(join(DESTDIR, "etc/keywheel"))).toBe(false);
  });

  const DAMAGED: [what: string, release: () => string, sentence: RegExp][] = [
    [
      "whose executable has another sum",
      () => release("2.0.0", "keywheel-linux-x64"),
      /keywheel-linux-x64 is not what SHA256SUMS says/,
    ],
    [
      "whose unit has another sum",
      () => release("2.0.0", "keywheel.service"),
      /keywheel\.service is not what SHA256SUMS says/,
    ],
    [
      "whose sums are not there",
      () => {
        const folder = release("2.0.0");
        rmSync(join(folder, "SHA256SUMS"));
        return folder;
      },
      /SHA256SUMS cannot be downloaded/,
    ],
    [
      "whose sums do not name the executable",
      () => {
        const folder = release("2.0.0");
        writeFileSync(join(folder, "SHA256SUMS"), `${"0".repeat(64)}  keywheel-linux-x64-musl\n`);
        return folder;
      },
      /does not name keywheel-linux-x64\./,
    ],
    [
      "whose executable is not there",
      () => {
        const folder = release("2.0.0");
        rmSync(join(folder, "keywheel-linux-x64"));
        return folder;
      },
      /keywheel-linux-x64 cannot be downloaded/,
    ],
    [
      "whose executable does not run",
      () => {
        const folder = release("2.0.0");
        const text = "#!/bin/sh\necho no libstdc++ here >&2\nexit 127\n";
        const sums = readFileSync(join(folder, "SHA256SUMS"), "utf8");
        writeFileSync(join(folder, "keywheel-linux-x64"), text);
        const sum = new Bun.CryptoHasher("sha256").update(text).digest("hex");
        writeFileSync(
          join(folder, "SHA256SUMS"),
          sums.replace(/^\w+ {2}keywheel-linux-x64$/m, `${sum}  keywheel-linux-x64`),
        );
        return folder;
      },
      /does not run here: no libstdc\+\+ here/,
    ],
  ];

  test.each(DAMAGED)("leaves what is installed alone for a release %s", (_, make, sentence) => {
    const DESTDIR = mkdtempSync(join(FOLDER, "root-"));
    expect(install({ environment: { DESTDIR, RELEASE: release("1.0.0") } }).code).toBe(0);
    const { code, stderr } = install({ environment: { DESTDIR, RELEASE: make() } });
    expect(stderr).toMatch(sentence);
    expect(code).toBe(1);
    expect(run([join(DESTDIR, "usr/local/bin/keywheel")]).stdout).toBe("keywheel 1.0.0 x64\n");
    expect(readdirSync(join(DESTDIR, "usr/local/bin"))).toEqual(["keywheel"]);
  });

  const SHELL = Bun.which("sh") ?? "/bin/sh";

  test("does nothing when the download is cut short, wherever", () => {
    const DESTDIR = mkdtempSync(join(FOLDER, "root-"));
    const start = INSTALLER.indexOf("\n{\n") + 3;
    const cuts = Array.from(
      { length: 60 },
      (_, n) => start + Math.floor(((INSTALLER.length - 4 - start) * n) / 59),
    );
    for (const cut of cuts) {
      const text = INSTALLER.slice(0, cut);
      const { stdout, stderr } = run([SHELL], { PATH: "/nonexistent", DESTDIR }, text);
      expect({ cut, stdout }).toEqual({ cut, stdout: "" });
      expect(stderr).not.toContain("not found");
    }
    expect(readdirSync(DESTDIR)).toEqual([]);
  });
});

// ------------------------------------------------------------------------------------ the unit

/** What a unit sets, several lines of one name joined by a space; an empty one counts as said. */
function unitOf(text: string): Map<string, string> {
  const settings = new Map<string, string>();
  for (const [, name = "", value = ""] of text.matchAll(/^(\w+)=(.*)$/gm)) {
    settings.set(name, [settings.get(name), value].filter((part) => part !== undefined).join(" "));
  }
  return settings;
}

describe("the unit", () => {
  const unit = unitOf(source("deploy/keywheel.service"));

  test.each([
    ["lets the service change its settings", "ReadWritePaths", /(^| )-?\/etc\/keywheel( |$)/],
    ["keeps everything else read-only", "ProtectSystem", /^strict$/],
    ["runs as a user of its own", "User", /^keywheel$/],
    ["gives it a directory for its state", "StateDirectory", /^keywheel$/],
    [
      "starts with the settings where the commands find them",
      "ExecStart",
      / --env-file \/etc\/keywheel\/\.env$/,
    ],
    ["says so where there are no settings", "AssertPathExists", /^\/etc\/keywheel\/\.env$/],
    ["does not start again with wrong settings", "RestartPreventExitStatus", /^2$/],
    ["never gives up starting", "StartLimitIntervalSec", /^0$/],
    ["starts after the clock is set", "After", /\btime-sync\.target\b/],
    ["leaves no core dump, which would hold keys", "LimitCORE", /^0$/],
    ["takes away what makes the runtime load code", "UnsetEnvironment", /\bBUN_OPTIONS BUN_BE_BUN\b/],
    ["takes away what opens a debugger", "UnsetEnvironment", /\bBUN_INSPECT( |$)/],
    [
      "takes away what switches off the check of certificates",
      "UnsetEnvironment",
      /\bNODE_TLS_REJECT_UNAUTHORIZED\b/,
    ],
    ["gives streams their DRAIN_SEC and more before it kills", "TimeoutStopSec", /^(3[5-9]|[4-9]\d)$/],
    ["P43 leaves room for four times the default of MAX_BUFFERED_MB", "MemoryMax", /^1G$/],
    ["keeps every right from it", "CapabilityBoundingSet", /^$/],
  ])("%s", (_, name, value) => {
    expect(unit.get(name)).toMatch(value);
  });

  test.each(Object.entries(SERVER_RUNTIME))(
    "and the image set %s, so that the program need not start itself anew",
    (name, value) => {
      expect(unit.get("Environment")?.split(" ")).toContain(`${name}=${value}`);
      expect(source("deploy/Dockerfile")).toContain(` ${name}=${value}`);
    },
  );

  const START_POST = /^\/bin\/sh -c '([^']*)'$/.exec(unit.get("ExecStartPost") ?? "")?.[1];

  /** What systemd does to the text, with the process `pid` as the service. */
  function startPost(pid: number | string, status: string): Ended {
    const text = (START_POST ?? "exit 99")
      .replaceAll("$$", "\0")
      .replaceAll("$MAINPID", String(pid))
      .replaceAll("\0", "$")
      .replaceAll("/usr/local/bin/keywheel", "keywheel");
    const path = `${programs({ keywheel: status, sleep: "echo slept" })}:${process.env.PATH}`;
    return run(["sh", "-c", text], { PATH: path });
  }

  test("lets systemctl start succeed as soon as keywheel answers", () => {
    expect(startPost(process.pid, "exit 0")).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("lets systemctl start fail when keywheel ended, as it does with wrong settings", () => {
    const ended = Bun.spawnSync(["true"]).pid;
    expect(startPost(ended, "exit 2")).toEqual({ code: 1, stdout: "", stderr: "" });
  });

  test("does not hold systemctl start up for ever when nothing is known", () => {
    expect(startPost(process.pid, "exit 1")).toEqual({ code: 0, stdout: "slept\n".repeat(39), stderr: "" });
  });
});

// ----------------------------------------------------------------- what belongs together

describe("the package, the image and the release", () => {
  const COMMANDS = ["serve", "init", "check", "status", "keys", "help", "version"];
  const ACTIONS = ["list", "add", "remove", "pause", "resume", "reset"];
  const OPTIONS = ["env-file", "demo", "system", "model", "json", "watch", "yes", "help", "version"];

  test.each([
    "man/keywheel.1",
    "completions/keywheel.bash",
    "completions/_keywheel",
    "completions/keywheel.fish",
  ])("deploy/%s knows every command and option", (path) => {
    const text = source(`deploy/${path}`).replaceAll("\\-", "-");
    const missing = [...COMMANDS, ...ACTIONS].filter((word) => !new RegExp(`\\b${word}\\b`).test(text));
    const options = OPTIONS.filter((word) => !new RegExp(`--${word}\\b|-l ${word}\\b`).test(text));
    expect([...missing, ...options]).toEqual([]);
  });

  test("the image is made from executables that build.sh makes, and sends nothing else to the builder", () => {
    const copied = [...new Set(source("deploy/Dockerfile").match(/\bdist\/keywheel-linux-[\w-]+/g))];
    expect(copied.map((path) => path.replace("dist/keywheel-linux-", "")).toSorted()).toEqual([
      "arm64",
      "x64",
    ]);
    const rules = source("deploy/Dockerfile.dockerignore")
      .split("\n")
      .filter((line) => /^[^#]/.test(line));
    expect(rules).toEqual(["*", ...copied.map((path) => `!${path}`)]);
  });

  test("the image runs as a user with a number, and asks keywheel itself whether it is well", () => {
    const file = source("deploy/Dockerfile");
    expect(file).toMatch(/^USER [1-9]\d*:[1-9]\d*$/m);
    expect(file).toMatch(/^HEALTHCHECK .* CMD \["keywheel", "status"\]$/m);
    expect(file).toMatch(/^VOLUME \/var\/lib\/keywheel$/m);
  });

  test("each action of a workflow has a version", () => {
    const names = readdirSync(join(ROOT, ".github/workflows"));
    const uses = names.flatMap((name) => [...source(`.github/workflows/${name}`).matchAll(/uses: *(\S+)/g)]);
    expect(uses.length).toBeGreaterThan(0);
    expect(
      uses.map(([, action]) => action).filter((action) => !/@(v\d+|[0-9a-f]{40})$/.test(action ?? "")),
    ).toEqual([]);
  });
});

describe("build.sh", () => {
  test("knows the sum of the runtime for every target", () => {
    for (const target of TARGETS)
      expect(source("build.sh")).toMatch(new RegExp(`^    ${target}\\) echo [0-9a-f]{64} ;;$`, "m"));
  });

  test("uses no runtime with another sum, and says so before it deletes anything", () => {
    const cache = join(FOLDER, "cache");
    mkdirSync(join(cache, "keywheel-build"), { recursive: true });
    const runtime = join(cache, `keywheel-build/bun-linux-x64-baseline-v${Bun.version}`);
    writeFileSync(runtime, "not Bun");
    const before = existsSync(join(ROOT, "dist")) ? readdirSync(join(ROOT, "dist")) : null;
    const environment = { XDG_CACHE_HOME: cache, BUN: process.execPath };
    const { code, stderr } = run(["bash", join(ROOT, "build.sh"), "--no-checks"], environment);
    expect(stderr).toContain(`${runtime} is not the runtime that this script knows.`);
    expect(code).toBe(1);
    expect(existsSync(join(ROOT, "dist")) ? readdirSync(join(ROOT, "dist")) : null).toEqual(before);
  });
});
