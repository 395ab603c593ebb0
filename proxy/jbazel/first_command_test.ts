import assert from "node:assert/strict";
import { RbsError } from "../../proto/base/errors.ts";
import { FakeOrchestrator, TestPlace, TestSignals } from "./fake_services.ts";
import { type FirstCommandContext, tryFirstCommand } from "./first_command.ts";
import { eventually } from "../../tests/support/eventually.ts";

/** A machine that is set up, with a double of the stock bazel, whose body is a shell script. */
async function start(script = "echo release 7.1.0") {
  const stack = new AsyncDisposableStack();
  const place = stack.use(new TestPlace());
  const orchestrator = stack.use(await FakeOrchestrator.start(place, 1));
  const javabase = `${place.root}/javabase`;
  const [bazel, base, rc] = [`${place.root}/bazel`, `${place.root}/base`, `${place.workspace}/.bazelrc`];
  Deno.mkdirSync(`${javabase}/bin`, { recursive: true });
  Deno.mkdirSync(`${base}/server`, { recursive: true });
  Deno.writeTextFileSync(`${javabase}/bin/java`, "#!/bin/sh\n# rbs\n", { mode: 0o755 });
  Deno.writeTextFileSync(bazel, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  Deno.writeTextFileSync(rc, `startup "--server_javabase=${javabase}" "--output_base=${base}"\n`);
  Deno.writeTextFileSync(`${base}/server/cmdline`, `java\0--server_javabase=${javabase}\0`);
  const said: string[] = [], shown: string[] = [];
  const signals = new TestSignals();
  const context: FirstCommandContext = {
    settings: { orchestrator: orchestrator.address, stateDirectory: place.stateDirectory, fallback: "error" },
    workingDirectory: `${place.workspace}/pkg`,
    javabase,
    env: (name) => ({ HOME: place.root, USER: "ada" })[name],
    say: (line) => said.push(line),
    warn: (line) => assert.fail(line),
    progress: { write: (text) => shown.push(text), columns: () => undefined },
    signals,
    systemRcFiles: [],
    bazel,
  };
  return {
    place,
    orchestrator,
    context,
    rc,
    base,
    said,
    shown,
    signals,
    try: (more: Partial<FirstCommandContext> = {}) => tryFirstCommand({ ...context, ...more }),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const fails = (pattern: RegExp, exitCode = 1) => (e: unknown) => {
  assert.ok(e instanceof RbsError, String(e));
  assert.match(e.message, pattern);
  assert.match(e.message, /The settings stay written/);
  assert.equal(e.exitCode, exitCode);
  return true;
};

Deno.test("a first command that is answered proves that it works, and a build is next", async () => {
  await using t = await start(`[ "$PWD $*" = "\${0%/bazel}/ws info release" ] && echo release 7.1.0`);
  await t.try();
  assert.match(
    t.said[0],
    /^It works: `bazel info release` has answered through RBS \("release 7\.1\.0", \d+\.\d s\)\.$/,
  );
  assert.equal(t.said[1], "Next: `bazel build //...`");
});

Deno.test("a first command that fails is told with its reason, what to do, and that the settings stay", async () => {
  await using t = await start("echo Starting... >&2; echo 'rbs: the agent fell over.' >&2; echo more >&2; exit 36");
  await assert.rejects(t.try(), fails(/`bazel info release` in .*ws ended with exit code 36 \(the agent fell over\)/));
  await assert.rejects(t.try({ bazel: `${t.place.root}/none` }), fails(/there is no bazel on the PATH.*install Bazel/));
  assert.deepEqual(t.said, []);
});

Deno.test("an answer that did not come through RBS is no proof", async () => {
  await using t = await start();
  Deno.writeTextFileSync(`${t.base}/server/cmdline`, "java\0-Xmx1g\0");
  await assert.rejects(t.try(), fails(/not through RBS.*bazel shutdown/));
});

Deno.test("a first command that does not end is ended, and a person sees what it waits for", async () => {
  await using t = await start("echo 'rbs: agent starting 1.2s' >&2; trap 'kill $!; exit 1' TERM; sleep 300 & wait");
  await assert.rejects(
    t.try({ timeoutMs: 4_000 }),
    fails(/has not ended within 4 s \(agent starting 1\.2s\).*jbazel doctor/),
  );
  assert.match(t.shown.join(""), /^rbs: bazel info release: agent starting \d\.\ds\n$/);
});

Deno.test("Ctrl-C ends the first command, and the settings stay", async () => {
  await using t = await start("echo 'rbs: agent starting' >&2; trap 'kill $!; exit 8' TERM; sleep 300 & wait");
  const tried = assert.rejects(t.try(), fails(/^Interrupted while/, 8));
  await eventually(() => t.signals.send("SIGINT") > 0);
  await tried;
  assert.equal(t.signals.send("SIGINT"), 0);
});

Deno.test("where a first command makes no sense yet, it is said why, and nothing is run", async () => {
  await using t = await start("exit 99");
  const reason = async (more: Partial<FirstCommandContext> = {}) => {
    await t.try(more);
    return t.said.pop();
  };
  assert.match(
    (await reason({ workingDirectory: t.place.root }))!,
    /^It was not tried, because .* is not within a workspace/,
  );
  const settings = { ...t.context.settings, orchestrator: "rbs.example:1" };
  Deno.removeSync(`${t.place.stateDirectory}/keys/user.pem`);
  assert.match((await reason({ settings }))!, /there is no key for .*rbs\.example:1 yet: run `jbazel login`/);
  await t.orchestrator[Symbol.asyncDispose]();
  assert.match((await reason())!, /no orchestrator runs yet: start it, then run `bazel info release`\.$/);
  Deno.writeTextFileSync(t.rc, "startup --server_javabase=/else\n", { append: true });
  assert.match((await reason())!, /\.bazelrc names another javabase/);
  Deno.writeTextFileSync(t.rc, "");
  assert.match((await reason())!, /no bazelrc of this workspace imports that file/);
});

Deno.test("what RBS_FALLBACK=local would run on this machine is no proof: the first command goes without it", async () => {
  await using t = await start('[ "$RBS_FALLBACK" = error ] && echo release 7.1.0');
  Deno.env.set("RBS_FALLBACK", "local");
  try {
    await t.try({ settings: { ...t.context.settings, fallback: "local" } });
  } finally {
    Deno.env.delete("RBS_FALLBACK");
  }
  assert.match(t.said[0], /^It works/);
});

Deno.test("the name of a rc file does not steer the terminal", async () => {
  await using t = await start("exit 1");
  const name = "x\x1b]0;owned\x07.rc";
  Deno.writeTextFileSync(`${t.place.workspace}/${name}`, "startup --server_javabase=/else\n");
  Deno.writeTextFileSync(t.rc, `import %workspace%/${name}\n`, { append: true });
  await t.try();
  assert.match(t.said[0], /names another javabase/);
  assert.equal(t.said.join().includes("\x1b"), false);
});
