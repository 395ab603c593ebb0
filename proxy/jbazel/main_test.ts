import assert from "node:assert/strict";
import { join } from "node:path";
import { FakeAgent, FakeOrchestrator, next, TestPlace, text } from "./fake_services.ts";

const ROOT = join(import.meta.dirname!, "../..");
const MAIN = join(import.meta.dirname!, "main.ts");

/** What a Bazel command needs. */
function permissions(place: TestPlace): string[] {
  const markers: string[] = [];
  for (let at = place.workspace;; at = join(at, "..")) {
    for (const m of ["MODULE.bazel", "REPO.bazel", "WORKSPACE.bazel", "WORKSPACE"]) markers.push(join(at, m));
    if (at === "/") break;
  }
  return [
    "--no-prompt",
    "--allow-env",
    "--allow-net=127.0.0.1,[::1],localhost",
    `--allow-read=${place.stateDirectory}/keys,${markers.join(",")}`,
  ];
}

function command(
  place: TestPlace,
  args: string[],
  env: Record<string, string> = {},
  flags = permissions(place),
): [string, string[], Deno.CommandOptions] {
  return [Deno.execPath(), ["run", "--quiet", `--config=${ROOT}/deno.json`, ...flags, MAIN, ...args], {
    cwd: place.workspace,
    env: { RBS_STATE_DIR: place.stateDirectory, RBS_FALLBACK: "", NO_COLOR: "1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }];
}

async function jbazel(...args: Parameters<typeof command>) {
  const [program, argv, options] = command(...args);
  const { code, stdout, stderr } = await new Deno.Command(program, { args: argv, ...options }).output();
  const decode = (b: Uint8Array) => new TextDecoder().decode(b);
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

Deno.test("the program runs a Bazel command with its own permissions, and no more", async () => {
  using place = new TestPlace();
  await using agent = await FakeAgent.start(async function* (requests) {
    const { value } = await requests.next();
    yield { message: { case: "stdout", value: text(value.message.value.args.join(" ")) } };
    yield { message: { case: "stderr", value: text(value.message.value.workingDirectory) } };
    yield { message: { case: "exitCode", value: 250 } };
  });
  await using orchestrator = await FakeOrchestrator.start(place, agent.server.port);
  const env = { RBS_ORCHESTRATOR_ADDR: orchestrator.address };
  const args = ["build", "//ünï:x", "--", "-h"];
  assert.deepEqual(await jbazel(place, args, env), {
    code: 250,
    stdout: "bazel build //ünï:x -- -h",
    stderr: place.workspace,
  });
  for (const kind of ["--allow-net", "--allow-read", "--allow-env"]) {
    const { code } = await jbazel(
      place,
      args,
      env,
      permissions(place).filter((p) => !p.startsWith(kind)),
    );
    assert.notEqual(code, 250, `without ${kind}`);
  }
});

const NO_ORCHESTRATOR =
  /^jbazel: No build server is available, because the program that starts them[^\n]*127\.0\.0\.1:1\)[^\n]*orchestrator'? install --port=1`[^\n]*\n$/;

Deno.test("the program's mistakes and failures are one sentence each, on stderr", async () => {
  using place = new TestPlace();
  const cases: [string[], Record<string, string>, number, RegExp][] = [
    [["build"], { RBS_ORCHESTRATOR_ADDR: "127.0.0.1:1" }, 36, NO_ORCHESTRATOR],
    [
      ["build"],
      { RBS_FALLBACK: "maybe" },
      2,
      /^jbazel: RBS_FALLBACK must be "local" or "error", but it is "maybe"\.\n$/,
    ],
    [["build"], { RBS_ORCHESTRATOR_ADDR: "nowhere" }, 2, /^jbazel: RBS_ORCHESTRATOR_ADDR must be HOST:PORT[^\n]*\n$/],
    [["status"], { RBS_ORCHESTRATOR_ADDR: "127.0.0.1:1" }, 1, NO_ORCHESTRATOR],
    [["status", "--bogus"], {}, 2, /^jbazel: status: unknown option '--bogus'; see "jbazel status --help"\.\n$/],
    [["doctor", "too", "much"], {}, 2, /^jbazel: doctor: too many arguments[^\n]*\n$/],
    [["completion"], {}, 2, /^jbazel: completion: missing required argument 'shell'; see [^\n]*\n$/],
    [["completion", "tcsh"], {}, 2, /^jbazel: completion: [^\n]*Allowed choices are bash, zsh, fish; see [^\n]*\n$/],
    [["setup", "--home", "--workspace"], {}, 2, /^jbazel: --workspace and --home exclude each other[^\n]*\n$/],
  ];
  for (const [args, env, code, stderr] of cases) {
    const flags = ["--no-prompt", "--allow-env", "--allow-read", "--allow-sys", "--allow-net"];
    const got = await jbazel(place, args, env, flags);
    assert.equal(got.code, code, `${args}: ${got.stderr}`);
    assert.match(got.stderr, stderr);
    assert.equal(got.stdout, "");
  }
});

Deno.test("where agents have copies of workspaces only, the local client runs with RBS's proxy as its server", async () => {
  using place = new TestPlace();
  await using agent = await FakeAgent.start(async function* () {});
  await using orchestrator = await FakeOrchestrator.start(place, agent.server.port);
  orchestrator.synced = true;
  const [bin, javabase] = [join(place.root, "bin"), join(place.root, "javabase")];
  Deno.mkdirSync(bin);
  Deno.mkdirSync(join(javabase, "bin"), { recursive: true });
  Deno.writeTextFileSync(join(javabase, "bin/java"), "#!/bin/sh\n# rbs\n", { mode: 0o755 });
  const env = { RBS_ORCHESTRATOR_ADDR: orchestrator.address, RBS_JAVABASE: javabase, PATH: bin };
  const flags = ["--no-prompt", "--allow-env", "--allow-read", "--allow-sys", "--allow-net", "--allow-run=bazel"];
  const without = await jbazel(place, ["build"], env, flags);
  assert.equal(without.code, 36);
  assert.match(without.stderr, /^jbazel: There is no bazel on PATH, [^\n]*: install Bazel or Bazelisk[^\n]*\n$/);

  const script = '#!/bin/sh\necho "$PWD $RBS_ORCHESTRATOR_ADDR"; printf "%s\\n" "$@"; echo err >&2; exit 3\n';
  Deno.writeTextFileSync(join(bin, "bazel"), script, { mode: 0o755 });
  assert.deepEqual(await jbazel(place, ["--host_jvm_args=-Dx", "run", "//:x", "--", "a b"], env, flags), {
    code: 3,
    stdout: [
      `${place.workspace} ${orchestrator.address}`,
      ...[`--server_javabase=${javabase}`, "--host_jvm_args=-Dx", "run", "//:x", "--", "a b", ""],
    ].join("\n"),
    stderr: "err\n",
  });
  assert.equal(agent.calls, 0);
});

Deno.test("help and version need no permission", async () => {
  using place = new TestPlace();
  for (const args of [[], ["--help"], ["-h"]]) {
    const { code, stdout, stderr } = await jbazel(place, args, {}, ["--no-prompt", "--allow-env"]);
    assert.deepEqual([code, stderr], [0, ""]);
    assert.match(
      stdout,
      /^jbazel: runs Bazel on[\s\S]*Examples:[\s\S]*Usage: jbazel[\s\S]*RBS_FALLBACK[\s\S]*Exit codes:/,
    );
  }
  assert.match(
    (await jbazel(place, ["--version"], {}, ["--no-prompt", "--allow-env"])).stdout,
    /^jbazel \d+\.\d+\.\d+\n$/,
  );
});

Deno.test("a flag overrules the variables of its rivals", async () => {
  using place = new TestPlace();
  const flags = ["--no-prompt", "--allow-env", "--allow-read"];
  const { code, stdout } = await jbazel(place, ["setup", "--workspace", "--print"], { RBS_SETUP_HOME: "1" }, flags);
  assert.equal(code, 0);
  assert.ok(stdout.startsWith(`# For ${place.workspace}/.bazelrc:\n`), stdout);
});

Deno.test("a real terminal is raw while `run` reads it, and as before afterwards", async () => {
  using place = new TestPlace();
  let size = "";
  await using agent = await FakeAgent.start(async function* (requests) {
    const { value } = await requests.next();
    const { columns, rows } = value.message.value.terminal;
    size = `${columns}x${rows}`;
    yield { message: { case: "stdout", value: text("READY\r\n") } };
    // Raw: Ctrl-C and a letter arrive as they are typed, without a line's end.
    assert.equal(await next(requests), 'stdin "\\u0003x"');
    yield { message: { case: "exitCode", value: 7 } };
  });
  await using orchestrator = await FakeOrchestrator.start(place, agent.server.port);
  const [program, argv, options] = command(place, ["run", "//:x"], { RBS_ORCHESTRATOR_ADDR: orchestrator.address });
  const quoted = [program, ...argv].map((a) => `'${a.replaceAll("'", `'\\''`)}'`).join(" ");
  const script = `stty rows 33 cols 99; stty -g; ${quoted}; echo "code $?"; stty -g`;
  const shell = { SHELL: "/bin/sh", TERM: "xterm" };
  const child = new Deno.Command("script", {
    args: ["-qec", script, "/dev/null"],
    ...options,
    env: { ...options.env, ...shell },
    stdin: "piped",
  }).spawn();
  const typing = child.stdin.getWriter();
  let out = "";
  for await (const chunk of child.stdout) {
    const before = out;
    out += new TextDecoder().decode(chunk);
    if (!before.includes("READY") && out.includes("READY")) await typing.write(text("\x03x"));
  }
  await typing.close().catch(() => {});
  await child.status;
  await child.stderr.cancel();
  const lines = out.split(/[\r\n]+/).filter((l) => l !== "");
  assert.deepEqual(lines.slice(1, 3), ["READY", "code 7"], out);
  assert.equal(lines[0], lines[3]);
  assert.equal(size, "99x33");
});
