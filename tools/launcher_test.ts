import assert from "node:assert/strict";
import { run } from "../tests/support/run.ts";
import { type TempDir, tempDir } from "../tests/support/temp_dir.ts";
import { ROOT } from "./compile.ts";
import { makePackages } from "./packages.ts";
import { LOCAL_JDK, SESSION_MARK } from "../proto/bazel/local_jdk.ts";
import { compiledJavaFile, launcherFile, shellWord } from "./launcher.ts";
import { AGENT, compiledFlags, JBAZEL, ORCHESTRATOR_PROGRAM, type Program, PROGRAMS, PROXY } from "./permissions.ts";

/** Tries what its arguments after "--" say, and prints what came of it. */
const PROBE = `
const attempts = {
  read: (path) => Deno.statSync(path),
  write: (path) => Deno.writeTextFileSync(path, ""),
  run: (program) => new Deno.Command(program).outputSync(),
  env: (name) => { if (Deno.env.get(name) === undefined) throw new Deno.errors.NotCapable(); },
  connect: (address) => Deno.connect({ hostname: address, port: 9 }),
};
for (const attempt of Deno.args.includes("--") ? Deno.args.slice(Deno.args.indexOf("--") + 1) : []) {
  const [kind, value] = [attempt.slice(0, attempt.indexOf(":")), attempt.slice(attempt.indexOf(":") + 1)];
  let result = "allowed";
  try { await attempts[kind](value); } catch (e) { if (e instanceof Deno.errors.NotCapable) result = "denied"; }
  console.log(JSON.stringify([attempt, result]));
}
console.log(JSON.stringify(["arguments", Deno.args]));
`;

/** A launcher of the program's own shell part around a probe, in a folder of its own. */
async function probe(program: Program, directory: TempDir, name = "probe"): Promise<string> {
  const places = { deno: Deno.execPath(), cache: directory.path };
  const file = directory.join(name);
  await Deno.writeTextFile(file, launcherFile(program, PROBE, places, program === PROXY ? LOCAL_JDK : ""), {
    mode: 0o755,
  });
  return file;
}

/** What came of each attempt. */
async function attempts(argv: string[], tries: string[], env: Record<string, string | undefined> = {}, cwd?: string) {
  const { code, stdout, stderr } = await run([...argv, "--", ...tries], { env, cwd });
  assert.equal(code, 0, stderr);
  return Object.fromEntries(stdout.trim().split("\n").map((line) => JSON.parse(line)));
}

function expected(allowed: string[], denied: string[]): Record<string, string> {
  return Object.fromEntries([...allowed.map((a) => [a, "allowed"]), ...denied.map((d) => [d, "denied"])]);
}

async function check(
  argv: string[],
  allowed: string[],
  denied: string[],
  env?: Record<string, string | undefined>,
  cwd?: string,
) {
  const { arguments: _, ...results } = await attempts(argv, [...allowed, ...denied], env, cwd);
  assert.deepEqual(results, expected(allowed, denied));
}

Deno.test("the proxy may use files and loopback, and run bash only", async () => {
  await using directory = await tempDir();
  for (const name of ["output base/server", "workspace"]) await Deno.mkdir(directory.join(name), { recursive: true });
  const outputBase = directory.join("output base");
  await check(
    [await probe(PROXY, directory), `--output_base=${outputBase}`],
    [
      `write:${outputBase}/server/command_port`,
      `read:${directory.join("workspace")}`,
      "connect:127.0.0.1",
      "env:RBS_STATE_DIR",
    ],
    ["connect:192.0.2.1", "run:/bin/true", "env:SECRET"],
    { RBS_STATE_DIR: directory.join("state"), RBS_ORCHESTRATOR_ADDR: undefined, SECRET: "s" },
    directory.join("workspace"),
  );
  const several = (addresses: string) => ({ RBS_ORCHESTRATOR_ADDR: addresses });
  const proxy = [await probe(PROXY, directory)];
  await check(proxy, ["connect:127.0.0.1"], ["connect:192.0.2.1"], several("localhost:1,[::1]:2,127.0.0.1:3"));
  await check(proxy, ["connect:127.0.0.1", "connect:192.0.2.1"], [], several("localhost:1,192.0.2.1:2"));
});

Deno.test("the orchestrator may use its state, its storage and its agent, and nothing beside them", async () => {
  await using directory = await tempDir();
  for (const name of ["state", "storage", "beside"]) await Deno.mkdir(directory.join(name));
  await Deno.writeTextFile(directory.join("agent"), "#!/bin/sh\n", { mode: 0o755 });
  await check(
    [await probe(ORCHESTRATOR_PROGRAM, directory), "--state-dir", directory.join("state")],
    [
      `write:${directory.join("state/file")}`,
      `write:${directory.join("storage/file")}`,
      `run:${directory.join("agent")}`,
      "connect:localhost",
    ],
    [
      `write:${directory.join("beside/file")}`,
      `read:${directory.join("beside")}`,
      "run:/bin/true",
      "connect:192.0.2.1",
    ],
    { RBS_STORAGE_ROOT: directory.join("storage"), RBS_STATE_DIR: directory.join("beside"), RBS_AGENT: undefined },
  );
});

Deno.test("the orchestrator and the agent may use the address that they are told to listen on, and no other", async () => {
  await using directory = await tempDir();
  const state = { RBS_STATE_DIR: directory.path, RBS_LISTEN: undefined, RBS_AGENT_HOST: undefined };
  const orchestrator = await probe(ORCHESTRATOR_PROGRAM, directory, "orchestrator");
  const agent = await probe(AGENT, directory, "agent");
  await check(
    [orchestrator, "--listen=127.0.0.2"],
    ["connect:127.0.0.2", "connect:127.0.0.1"],
    ["connect:127.0.0.3"],
    state,
  );
  await check([orchestrator], ["connect:127.0.0.2"], ["connect:127.0.0.3"], { ...state, RBS_LISTEN: "127.0.0.2" });
  await check([orchestrator, "--listen", "localhost"], ["connect:localhost"], ["connect:127.0.0.2"], state);
  await check([agent], ["connect:::2", "connect:::1"], ["connect:::3"], { ...state, RBS_AGENT_HOST: "::2" });
});

Deno.test("the orchestrator may use what Spanner needs only when its store is there, and a file that is its store", async () => {
  await using directory = await tempDir();
  for (const name of ["state", "beside"]) await Deno.mkdir(directory.join(name));
  await Deno.writeTextFile(directory.join("key.json"), "{}");
  const launcher = await probe(ORCHESTRATOR_PROGRAM, directory);
  const emulator = "127.0.0.1:9010";
  const env = {
    RBS_STATE_DIR: directory.join("state"),
    RBS_STORE: undefined,
    SPANNER_EMULATOR_HOST: undefined,
    GOOGLE_APPLICATION_CREDENTIALS: directory.join("key.json"),
  };
  const file = directory.join("beside/s.sqlite");
  const spanner = "spanner:projects/p/instances/i/databases/d";
  const forSpanner = ["env:GOOGLE_APPLICATION_CREDENTIALS", `read:${directory.join("key.json")}`];
  const never = [`write:${directory.join("beside/other")}`, `write:${directory.join("key.json")}`, "run:/bin/true"];
  await check([launcher], [], [...forSpanner, `write:${file}`, ...never, "connect:192.0.2.1"], env);
  await check([launcher, `--store=sqlite:${file}`], [`write:${file}`], [...never, "connect:192.0.2.1"], env);
  await check([launcher, "--store", spanner], [...forSpanner, "connect:192.0.2.1"], [`write:${file}`, ...never], env);
  await check(
    [launcher],
    [...forSpanner, "env:SPANNER_EMULATOR_HOST", "connect:127.0.0.1"],
    [...never, "connect:192.0.2.1"],
    { ...env, RBS_STORE: spanner, SPANNER_EMULATOR_HOST: emulator },
  );
});

Deno.test("the orchestrator may run a shell and write units only for the commands about itself in the background", async () => {
  await using directory = await tempDir();
  for (const name of ["state", "config"]) await Deno.mkdir(directory.join(name));
  const launcher = await probe(ORCHESTRATOR_PROGRAM, directory);
  const env = {
    RBS_STATE_DIR: directory.join("state"),
    XDG_CONFIG_HOME: directory.join("config"),
    RBS_STORE: undefined,
  };
  const background = ["run:sh", `write:${directory.join("config/systemd/user/rbs-orchestrator.service")}`];
  const never = [`write:${directory.join("config/other")}`, "run:/bin/true"];
  for (const verb of ["install", "status", "stop"]) await check([launcher, verb], background, never, env);
  for (const other of ["--local-mode", "enrol"]) await check([launcher, other], [], [...background, ...never], env);
});

Deno.test("a launcher imports packages that cannot be bundled, at starts that need them, without a cache or a network", async () => {
  await using directory = await tempDir();
  await makePackages(ROOT, directory.join(".packages"), ORCHESTRATOR_PROGRAM.packages!.names, install);
  const places = { deno: Deno.execPath(), cache: directory.join("cache") };
  const bundle = `
    const { default: library } = await import("@google-cloud/spanner");
    const { projectId } = new library.Spanner({ projectId: "p", disableBuiltInMetrics: true });
    console.log(projectId);
  `;
  await Deno.writeTextFile(directory.join("program"), launcherFile(ORCHESTRATOR_PROGRAM, bundle, places), {
    mode: 0o755,
  });
  const env = { RBS_STATE_DIR: directory.join("state"), RBS_STORE: undefined, SPANNER_EMULATOR_HOST: "127.0.0.1:1" };
  const spanner = await run([directory.join("program"), "--store=spanner:x"], { env });
  assert.deepEqual([spanner.stdout, spanner.stderr], ["p\n", ""]);
  const sqlite = await run([directory.join("program")], { env });
  assert.match(sqlite.stderr, /Import "@google-cloud\/spanner" not a dependency/);

  const { mtime } = await Deno.stat(directory.join(".packages"));
  await makePackages(ROOT, directory.join(".packages"), ORCHESTRATOR_PROGRAM.packages!.names, () => assert.fail());
  assert.deepEqual((await Deno.stat(directory.join(".packages"))).mtime, mtime);
});

async function install(cwd: string) {
  const { code, stderr } = await run([Deno.execPath(), "install", "--quiet", "--frozen"], { cwd });
  assert.equal(code, 0, stderr);
}

Deno.test("the agent may use files and loopback, and run bash only", async () => {
  await using directory = await tempDir();
  await Deno.mkdir(directory.join("storage"));
  await check(
    [await probe(AGENT, directory)],
    [`write:${directory.join("storage/file")}`, "connect:127.0.0.1"],
    ["run:/bin/true", "connect:192.0.2.1", "env:SECRET"],
    { SECRET: "s" },
  );
});

Deno.test("jbazel may write for setup only, and only the workspace's and the home's folder", async () => {
  await using directory = await tempDir();
  for (const name of ["home", "workspace/package", "beside"]) {
    await Deno.mkdir(directory.join(name), { recursive: true });
  }
  await Deno.writeTextFile(directory.join("workspace/WORKSPACE"), "");
  const launcher = await probe(JBAZEL, directory);
  const writes = [`write:${directory.join("workspace/.bazelrc")}`, `write:${directory.join("home/.bazelrc")}`];
  const denied = [`write:${directory.join("beside/file")}`, "run:/bin/true", "connect:192.0.2.1"];
  const env = { HOME: directory.join("home"), RBS_ORCHESTRATOR_ADDR: undefined };
  const orchestrator = `run:${directory.join("orchestrator")}`;
  const cwd = directory.join("workspace/package");
  await check([launcher, "setup"], [...writes, orchestrator], denied, env, cwd);
  await check([launcher, "status"], [], [...writes, orchestrator, ...denied], env, cwd);
});

Deno.test("paths with spaces, quotes, newlines, dollars and non-ASCII get through; of one with a comma, its parent", async () => {
  for (const name of ["a b", `it's "quoted"`, "line\nbreak", "$HOME `x` \\", "größe", "a,b"]) {
    await using directory = await tempDir();
    const state = directory.join(name);
    await Deno.mkdir(state);
    const file = `write:${state}/file`;
    const launcher = await probe(ORCHESTRATOR_PROGRAM, directory, `orchestrator ${name}`);
    const results = await attempts([launcher, `--state-dir=${state}`], [file, "read:/etc/passwd"]);
    assert.deepEqual(results, {
      [file]: "allowed",
      "read:/etc/passwd": "denied",
      arguments: [`--state-dir=${state}`, "--", file, "read:/etc/passwd"],
    });
  }
});

Deno.test("a launcher works by a symlink, without an environment, and when its deno has moved to the PATH", async () => {
  await using directory = await tempDir();
  const file = await probe(PROXY, directory);
  await Deno.symlink(file, directory.join("java"));
  const empty = await run(["env", "-i", directory.join("java"), "--x=1"]);
  assert.equal(empty.stdout, '["arguments",["--x=1"]]\n', empty.stderr);
  const moved = (await Deno.readTextFile(file)).replaceAll(Deno.execPath(), directory.join("gone/deno"));
  await Deno.writeTextFile(file, moved);
  await Deno.mkdir(directory.join("bin"));
  await Deno.symlink(Deno.execPath(), directory.join("bin/deno"));
  const found = await run(["env", "-i", `PATH=${directory.join("bin")}`, file, "--x=1"]);
  assert.equal(found.stdout, '["arguments",["--x=1"]]\n', found.stderr);
});

Deno.test("the user's variables for Deno and Node do not reach the proxy", async () => {
  await using directory = await tempDir();
  const env = { DENO_V8_FLAGS: "--nonsense", NODE_OPTIONS: "--nonsense", DENO_NO_PROMPT: "0", DENO_CERT: "/nowhere" };
  const { stdout, stderr } = await run([await probe(PROXY, directory)], { env });
  assert.deepEqual([stdout, stderr], ['["arguments",[]]\n', ""]);
});

/** A fake JDK that prints its arguments. */
async function fakeJdk(directory: TempDir, name: string): Promise<string> {
  await Deno.mkdir(directory.join(name, "bin"), { recursive: true });
  const script = `#!/bin/sh\necho ${shellWord(name)}; for a do echo "<$a>"; done\n`;
  await Deno.writeTextFile(directory.join(name, "bin/java"), script, { mode: 0o755 });
  return directory.join(name);
}

for (const form of ["launcher", "compiled"] as const) {
  const java = async (directory: TempDir) => {
    if (form === "launcher") return await probe(PROXY, directory);
    const file = directory.join("probe");
    await Deno.writeTextFile(file, compiledJavaFile(directory.join("rbs-proxy")), { mode: 0o755 });
    return file;
  };

  Deno.test(`--batch runs the real JDK with the same arguments but --server_javabase, and says so (${form})`, async () => {
    await using directory = await tempDir();
    const file = await java(directory);
    const installBase = directory.join("install");
    await fakeJdk(directory, "install/embedded_tools/jdk");
    const args = [
      "-jar",
      "x y",
      "--batch",
      `--install_base=${installBase}`,
      "--server_javabase=/rbs",
      "run",
      "--",
      "",
      "$x",
    ];
    const { stdout, stderr } = await run([file, ...args]);
    const kept = args.filter((argument) => !argument.startsWith("--server_javabase="));
    assert.equal(stdout, ["install/embedded_tools/jdk", ...kept.map((a) => `<${a}>`), ""].join("\n"));
    assert.equal(
      stderr,
      `rbs: --batch (or no workspace): running the local JDK ${installBase}/embedded_tools/jdk/bin/java, not RBS.\n`,
    );
  });

  Deno.test(`in a session the real JDK runs silently: default javabase, JAVA_HOME, PATH, in this order (${form})`, async () => {
    await using directory = await tempDir();
    const file = await java(directory);
    const [byFlag, byHome, byPath] = [
      await fakeJdk(directory, "flag"),
      await fakeJdk(directory, "home"),
      await fakeJdk(directory, "path"),
    ];
    // A java on the PATH that is the launcher itself would run for ever.
    await Deno.mkdir(directory.join("own"));
    await Deno.symlink(file, directory.join("own/java"));
    const env = {
      RBS_IN_SESSION: "1",
      PATH: `${directory.join("own")}:${byPath}/bin:/usr/bin:/bin`,
      JAVA_HOME: byHome,
    };
    const says = async (argv: string[], env: Record<string, string | undefined>) => {
      const { stdout, stderr } = await run(argv, { env });
      assert.equal(stderr, "");
      return stdout.split("\n")[0];
    };
    assert.equal(await says([file, `--default_system_javabase=${byFlag}`], env), "flag");
    assert.equal(await says([file, "--default_system_javabase=/nowhere"], env), "home");
    assert.equal(await says([file], { ...env, JAVA_HOME: undefined }), "path");
    // In a session the environment need not say where it is: a device covers the file beside bin.
    const outside = { ...env, RBS_IN_SESSION: undefined };
    const [inside, mark] = [directory.join("base/bin/java"), directory.join("base", SESSION_MARK)];
    await Deno.mkdir(directory.join("base/bin"), { recursive: true });
    await Deno.copyFile(file, inside);
    await Deno.writeTextFile(mark, "");
    assert.notEqual((await run([inside], { env: outside })).stdout, "home\n");
    await Deno.remove(mark);
    await Deno.symlink("/dev/null", mark);
    assert.equal(await says([inside], outside), "home");
  });

  Deno.test(`without any JDK, --batch ends with 36 and one sentence (${form})`, async () => {
    await using directory = await tempDir();
    const env = { PATH: "/nowhere", JAVA_HOME: undefined };
    const { code, stdout, stderr } = await run([await java(directory), "--batch"], { env });
    assert.deepEqual([code, stdout], [36, ""]);
    assert.match(stderr, /^rbs: .* need a real JDK, .*: install one, or set JAVA_HOME\.\n$/);
  });
}

Deno.test("every permission says why, and a compiled program's flags name no launcher variable", () => {
  for (const program of PROGRAMS) {
    for (const { why } of program.permissions) assert.ok(why.length > 10, `${program.name}: ${why}`);
    for (const flag of compiledFlags(program)) assert.ok(!flag.includes("$"), `${program.name}: ${flag}`);
    assert.ok(!compiledFlags(program).includes("--allow-all"));
  }
});

Deno.test("programs that strangers can reach may have the engine collect what those leave behind", () => {
  for (const { name, v8Flags } of [PROXY, ORCHESTRATOR_PROGRAM, AGENT]) assert(v8Flags?.includes("--expose-gc"), name);
});
