// deno-lint-ignore-file require-yield
import assert from "node:assert/strict";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { SessionStatus } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { authoritiesFile, holderFile, readValidCredentials, userOf } from "../../proto/identity/key_directory.ts";
import { TestAuthority } from "../../proto/testing/certificates.ts";
import { giveUserKeys, orchestratorCredentials } from "../../proto/testing/keys.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { machineId } from "../session/machine_id.ts";
import { serverId } from "../session/server_id.ts";
import { runBazelCommand } from "./bazel_command.ts";
import { type Behaviour, concat, FakeAgent, FakeOrchestrator, next, TestIo, TestPlace, text } from "./fake_services.ts";
import type { Settings } from "./settings.ts";

/** A place with both services, and a way to run a command there. */
async function start(behaviour: Behaviour) {
  const stack = new AsyncDisposableStack();
  const place = stack.use(new TestPlace());
  const agent = stack.use(await FakeAgent.start(behaviour));
  const orchestrator = stack.use(await FakeOrchestrator.start(place, agent.server.port));
  const io = new TestIo();
  const said: string[] = [];
  const settings: Settings = {
    orchestrator: orchestrator.address,
    stateDirectory: place.stateDirectory,
    fallback: "error",
  };
  const run = (args: string[], env: Record<string, string> = {}, workingDirectory = `${place.workspace}/pkg`) =>
    runBazelCommand(args, {
      settings,
      workingDirectory,
      env,
      io,
      progress: { write: (s) => void said.push(s), columns: () => undefined },
      javabase: () => `${place.root}/javabase`,
    });
  return { place, agent, orchestrator, io, settings, run, said, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const exit = (code: number) => ({ message: { case: "exitCode" as const, value: code } });
const stdout = (s: string | Uint8Array) => ({
  message: { case: "stdout" as const, value: typeof s === "string" ? text(s) : s },
});

const isRbsError = (exitCode: number, pattern: RegExp) => (e: unknown) => {
  assert.ok(e instanceof RbsError, String(e));
  assert.equal(e.exitCode, exitCode);
  assert.match(e.message, pattern);
  assert.ok(!e.message.includes("\n"));
  return true;
};

Deno.test("a command from a folder of the workspace gets its arguments, folder and environment, and its exit code comes back", async () => {
  let init: unknown;
  await using t = await start(async function* (requests) {
    const { value } = await requests.next();
    init = value.message.value;
    yield stdout("out");
    yield { message: { case: "stderr", value: text("err") } };
    yield exit(3);
  });
  const args = ["--host_jvm_args=-Xmx1g", "build", "//...", "--", "-//x:y", "--help"];
  const env = { PATH: "/bin", HOME: "/home/ann", USER: "ann", NODE_ENV: "x", HÜT: "ü\n" };
  assert.equal(await t.run(args, { ...env, RBS_STATE_DIR: "/s" }), 3);
  const got = init as { args: string[]; env: Record<string, string>; workingDirectory: string; terminal: unknown };
  assert.deepEqual(got.args, ["bazel", ...args]);
  assert.deepEqual({ ...got.env }, env);
  assert.equal(got.workingDirectory, `${t.place.workspace}/pkg`);
  assert.equal(got.terminal, undefined);
  assert.equal(t.io.text("out"), "out");
  assert.equal(t.io.text("err"), "err");
  const [request] = t.orchestrator.requests;
  assert.equal(request.sourcePath, t.place.workspace);
  assert.equal(request.repoHash, repoHash(t.place.workspace));
  // The stock client's default: for a session that has to be started.
  assert.deepEqual(request.startupOptions, [`--output_base=/home/ann/.cache/bazel/_bazel_ann/${request.repoHash}`]);
  assert.match(request.sessionId, /^[0-9a-f]{32}$/);
  assert.deepEqual(t.said, []);
});

Deno.test("outside of a workspace: one sentence, exit code 2, and nobody is asked", async () => {
  await using t = await start(async function* () {});
  await assert.rejects(t.run(["build"], {}, t.place.root), isRbsError(2, /is not within a Bazel workspace/));
  assert.equal(t.orchestrator.requests.length, 0);
});

Deno.test("output arrives byte for byte, and a slow reader holds the agent up", async () => {
  const chunk = crypto.getRandomValues(new Uint8Array(65536));
  const total = 512;
  let sent = 0;
  let sentWhenStalled = -1;
  await using t = await start(async function* (requests) {
    await requests.next();
    for (; sent < total; sent++) yield stdout(chunk);
    yield exit(0);
  });
  let first = true;
  t.io.onOutput = async () => {
    if (!first) return;
    first = false;
    // Stalls until the agent has been stopped by it: until it makes no progress between two looks.
    for (let seen = -1; seen !== sent;) {
      seen = sent;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    sentWhenStalled = sent;
  };
  assert.equal(await t.run(["query", "//..."]), 0);
  assert.ok(sentWhenStalled < total, `the agent had sent ${sentWhenStalled} of ${total} chunks to a stalled reader`);
  const out = concat(t.io.out);
  assert.equal(out.length, total * chunk.length);
  for (let i = 0; i < total; i++) {
    assert.ok(out.subarray(i * chunk.length, (i + 1) * chunk.length).every((b, j) => b === chunk[j]));
  }
});

Deno.test("`run` passes standard input until its end", async () => {
  const seen: string[] = [];
  await using t = await start(async function* (requests) {
    for (let r = await next(requests); r !== "stdinClosed"; r = await next(requests)) seen.push(r);
    yield exit(0);
  });
  const done = t.run(["run", "//:cat"]);
  await t.io.typing.write(text("hello"));
  await t.io.typing.close();
  assert.equal(await done, 0);
  assert.deepEqual(seen, ["init", 'stdin "hello"']);
});

Deno.test("`build` leaves standard input unread, for the shell loop that it stands in", async () => {
  const seen: string[] = [];
  await using t = await start(async function* (requests) {
    seen.push(await next(requests), await next(requests));
    yield exit(0);
  });
  const typed = t.io.typing.write(text("the loop's next line"));
  assert.equal(await t.run(["build", "//:x"]), 0);
  assert.deepEqual(seen, ["init", "stdinClosed"]);
  assert.equal(t.io.stdin.locked, false);
  t.io.stdin.cancel();
  await typed.catch(() => {});
});

Deno.test("signals reach the command", async () => {
  await using t = await start(async function* (requests) {
    await next(requests); // init
    await next(requests); // stdinClosed
    for (const name of ["INT", "TERM", "QUIT"]) {
      yield stdout(name);
      assert.equal(await next(requests), `signal ${name}`);
    }
    yield exit(8);
  });
  t.io.onOutput = (name) => void assert.equal(t.io.signals.send(`SIG${name}` as Deno.Signal), 1);
  assert.equal(await t.run(["build"]), 8);
  assert.equal(t.io.signals.send("SIGINT"), 0, "listeners are gone afterwards");
});

Deno.test("the third Ctrl-C leaves at once, and the agent notices", async () => {
  const gone = Promise.withResolvers<void>();
  await using t = await start(async function* (_, context) {
    context.signal.addEventListener("abort", () => gone.resolve());
    yield stdout("deaf");
    await gone.promise;
  });
  t.io.onOutput = () => {
    for (let i = 0; i < 3; i++) t.io.signals.send("SIGINT");
  };
  assert.equal(await t.run(["build"]), 8);
  await gone.promise;
});

Deno.test("a hang-up is passed on, and the command is left soon after", async () => {
  await using t = await start(async function* (requests, context) {
    await next(requests);
    await next(requests);
    yield stdout("x");
    assert.equal(await next(requests), "signal HUP");
    await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
  });
  t.io.onOutput = () => void t.io.signals.send("SIGHUP");
  assert.equal(await t.run(["build"]), 129);
});

Deno.test("with a terminal, Ctrl-C and a new window size reach the far terminal, and the local one stays as it is", async () => {
  let size: unknown;
  await using t = await start(async function* (requests) {
    const { value } = await requests.next();
    size = value.message.value.terminal;
    yield stdout("int");
    assert.equal(await next(requests), "signal INT");
    yield stdout("size");
    assert.equal(await next(requests), "window 100x30");
    yield exit(0);
  });
  let columns = 80;
  t.io.terminal = {
    size: () => ({ columns, rows: 30 }),
    makeRaw: () => assert.fail("must not be made raw"),
    restore: () => {},
  };
  t.io.onOutput = (what) => {
    if (what === "int") t.io.signals.send("SIGINT");
    columns = 100;
    if (what === "size") t.io.signals.send("SIGWINCH");
  };
  assert.equal(await t.run(["build"]), 0);
  const { columns: c, rows } = size as { columns: number; rows: number };
  assert.deepEqual([c, rows], [80, 30]);
});

Deno.test("`run` in a terminal makes it raw, and restores it also when the agent is lost", async () => {
  await using t = await start(async function* (requests) {
    await next(requests);
    assert.equal(await next(requests), 'stdin "\\u0003q"');
    yield stdout("x");
    throw new RpcError(Code.INTERNAL, "crash");
  });
  const modes: string[] = [];
  t.io.terminal = {
    size: () => ({ columns: 1, rows: 1 }),
    makeRaw: () => void modes.push("raw"),
    restore: () => void modes.push("restored"),
  };
  const done = t.run(["run", "//:editor"]);
  await t.io.typing.write(text("\x03q"));
  await assert.rejects(done, isRbsError(37, /lost while Bazel ran \(crash\)/));
  assert.deepEqual(modes, ["raw", "restored"]);
});

Deno.test("three times Ctrl-C in a raw terminal leaves when nothing answers", async () => {
  await using t = await start(async function* (_, context) {
    await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
  });
  t.io.terminal = { size: () => ({ columns: 1, rows: 1 }), makeRaw() {}, restore() {} };
  const done = t.run(["run", "//:x"]);
  for (let i = 0; i < 3; i++) await t.io.typing.write(text("\x03"));
  assert.equal(await done, 8);
});

Deno.test("an agent that dies in mid-command: exit code 37 and one sentence", async () => {
  await using t = await start(async function* () {
    yield stdout("some");
    await new Promise(() => {});
  });
  t.io.onOutput = () => t.agent.server.close();
  await assert.rejects(
    t.run(["build"]),
    isRbsError(37, /^The agent at 127\.0\.0\.1:\d+ was lost while Bazel ran \(.*\): run/),
  );
});

Deno.test("an answer that ends without an exit code: exit code 37", async () => {
  await using t = await start(async function* () {
    yield stdout("some");
  });
  await assert.rejects(t.run(["build"]), isRbsError(37, /without an exit code/));
});

Deno.test("a reader that went away ends the command like a broken pipe", async () => {
  const gone = Promise.withResolvers<void>();
  await using t = await start(async function* (_, context) {
    context.signal.addEventListener("abort", () => gone.resolve());
    yield stdout("line\n");
    await gone.promise;
  });
  t.io.writeStdout = () => Promise.reject(new Deno.errors.BrokenPipe());
  assert.equal(await t.run(["query", "//..."]), 141);
  await gone.promise;
});

Deno.test("a session that was taken over meanwhile is asked for again, and the command runs once", async () => {
  let runs = 0;
  await using t = await start(async function* () {
    runs++;
    yield exit(0);
  });
  t.agent.epoch = 2;
  t.orchestrator.before = async function* () {
    t.orchestrator.epoch = t.orchestrator.requests.length;
  };
  assert.equal(await t.run(["build"]), 0);
  assert.equal(runs, 1);
  assert.equal(t.orchestrator.requests.length, 2);
});

Deno.test("an agent that is gone before the command began is asked for again", async () => {
  await using t = await start(async function* () {
    yield exit(0);
  });
  const alive = t.agent.server.port;
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  t.orchestrator.agentPort = (listener.addr as Deno.NetAddr).port;
  listener.close();
  t.orchestrator.before = async function* () {
    if (t.orchestrator.requests.length === 2) t.orchestrator.agentPort = alive;
  };
  assert.equal(await t.run(["build"]), 0);
});

Deno.test("an agent that never takes the command: exit code 36 after a few attempts", async () => {
  await using t = await start(async function* () {});
  t.agent.epoch = 99;
  await assert.rejects(t.run(["build"]), isRbsError(36, /takes no commands \(the session was taken over\)/));
  assert.equal(t.orchestrator.requests.length, 4);
});

Deno.test("a session of a proxy is joined, not taken over", async () => {
  await using t = await start(async function* () {
    yield exit(0);
  });
  t.orchestrator.warnings = ["said to the proxy already"];
  const sessionId = "0123456789abcdef0123456789abcdef";
  const session = {
    userId: "ada",
    repoHash: repoHash(t.place.workspace),
    serverId: serverId(machineId({ stateDirectory: t.place.stateDirectory }), "/home/ann/ob"),
    sessionId,
    status: SessionStatus.READY,
  };
  t.orchestrator.sessions = [
    { ...session, repoHash: "other", sessionId: "x" },
    { ...session, serverId: "another output base", sessionId: "y" },
    { ...session, serverId: "", outputBase: "/home/ann/elsewhere", sessionId: "z" },
    session,
  ];
  assert.equal(await t.run(["--output_base=/home/ann/ob", "build"]), 0);
  const [request] = t.orchestrator.requests;
  assert.deepEqual([request.sessionId, request.serverId], [sessionId, session.serverId]);
  assert.deepEqual(t.said, []);
});

Deno.test("warnings of a new session are said, without control characters", async () => {
  await using t = await start(async function* () {
    yield exit(0);
  });
  t.orchestrator.warnings = ["no\x1b[31m sandbox"];
  assert.equal(await t.run(["build"]), 0);
  assert.deepEqual(t.said, ["rbs: warning: no [31m sandbox\n"]);
});

Deno.test("heartbeats go out while the command runs", async () => {
  await using t = await start(async function* () {
    await eventually(() => t.orchestrator.heartbeats.length > 0);
    yield exit(0);
  });
  assert.equal(await t.run(["build"]), 0);
  assert.equal(t.orchestrator.heartbeats[0], t.orchestrator.requests[0].sessionId);
});

Deno.test("a certificate at half its life is renewed while the command runs, and a younger one stays", async () => {
  const file = (place: TestPlace) => Deno.readTextFileSync(holderFile(place.stateDirectory, "user"));
  let old: string;
  await using t = await start(async function* () {
    await eventually(() => file(t.place) !== old);
    yield exit(0);
  });
  await giveUserKeys(t.place.stateDirectory, "ada", { notAfter: new Date(Date.now() + 60_000) });
  old = file(t.place);
  assert.equal(await t.run(["build"]), 0);
  const renewed = readValidCredentials(t.place.stateDirectory);
  assert.equal(userOf(renewed), "ada");

  old = "";
  assert.equal(await t.run(["build"]), 0);
  assert.equal(readValidCredentials(t.place.stateDirectory).certificate, renewed.certificate);
});

Deno.test("an orchestrator that is down: exit code 36, and what to do", async () => {
  await using t = await start(async function* () {});
  await t.orchestrator[Symbol.asyncDispose]();
  await assert.rejects(
    t.run(["build"]),
    isRbsError(36, /orchestrator does not run \(nothing listens at 127.*start it with .*RBS_FALLBACK/),
  );
});

Deno.test("a state directory without a key: exit code 36, and what to do", async () => {
  await using t = await start(async function* () {});
  Deno.removeSync(`${t.place.stateDirectory}/keys`, { recursive: true });
  await assert.rejects(t.run(["build"]), isRbsError(36, /no key for it in .*: set RBS_STATE_DIR .*jbazel login/));
});

Deno.test("a key that the orchestrator does not know: exit code 36, and what to do", async () => {
  await using t = await start(async function* () {});
  await giveUserKeys(t.place.stateDirectory, "ada", {}, await TestAuthority.make());
  Deno.writeTextFileSync(authoritiesFile(t.place.stateDirectory), (await orchestratorCredentials()).authorities);
  await assert.rejects(t.run(["build"]), isRbsError(36, /refuses this user's certificate: .*: run `jbazel login`/));
});

Deno.test("what the orchestrator refuses is said, and no certificate is blamed for it", async () => {
  await using t = await start(async function* () {});
  t.orchestrator.before = async function* () {
    throw new RpcError(Code.PERMISSION_DENIED, "The workspace is or lies in what no session may see: use another.");
  };
  await assert.rejects(
    t.run(["build"]),
    isRbsError(36, /^The orchestrator at \S+ refuses: The workspace is or lies in/),
  );
});

Deno.test("an agent that cannot start: the orchestrator's sentence, exit code 36", async () => {
  await using t = await start(async function* () {});
  t.orchestrator.before = async function* () {
    throw new RpcError(Code.FAILED_PRECONDITION, "Bazel 4.2.3 is wanted, but 7.7.1 is installed.");
  };
  await assert.rejects(t.run(["build"]), isRbsError(36, /^Bazel 4.2.3 is wanted/));
});

Deno.test("an orchestrator that speaks something else: exit code 36 and one sentence", async () => {
  using place = new TestPlace();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const served = (async () => {
    for await (const c of listener) {
      c.write(text("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).catch(() => {}).finally(() => c.close());
    }
  })().catch(() => {});
  await giveUserKeys(place.stateDirectory, "ada");
  const settings: Settings = {
    orchestrator: `127.0.0.1:${port}`,
    stateDirectory: place.stateDirectory,
    fallback: "error",
  };
  const options = { settings, workingDirectory: place.workspace, env: {}, io: new TestIo(), javabase: () => "/none" };
  const progress = { write() {}, columns: () => undefined };
  await assert.rejects(
    runBazelCommand(["build"], { ...options, progress }),
    isRbsError(36, /is not to be trusted: what listens there does not speak TLS/),
  );
  listener.close();
  await served;
});

Deno.test("Ctrl-C while the agent starts: exit code 8, and the orchestrator notices", async () => {
  await using t = await start(async function* () {});
  const gone = Promise.withResolvers<void>();
  t.orchestrator.before = async function* (_, context) {
    context.signal.addEventListener("abort", () => gone.resolve());
    yield { event: { case: "step", value: { description: "agent starting" } } };
    t.io.signals.send("SIGINT");
    await gone.promise;
  };
  await assert.rejects(t.run(["build"]), isRbsError(8, /^Interrupted/));
  await gone.promise;
});

Deno.test("who waits for more than a second sees why", async () => {
  await using t = await start(async function* () {
    yield exit(0);
  });
  const shown = Promise.withResolvers<void>();
  t.orchestrator.before = async function* () {
    yield { event: { case: "step", value: { description: "agent starting (pod scheduled)" } } };
    const timer = setInterval(() => t.said.length && (clearInterval(timer), shown.resolve()), 5);
    await shown.promise;
  };
  assert.equal(await t.run(["build"]), 0);
  assert.equal(t.said.length, 1);
  assert.match(t.said[0], /^rbs: agent starting \(pod scheduled\) 1\.\ds\n$/);
});

Deno.test("an argument that is no UTF-8 is refused, not changed", async () => {
  await using t = await start(async function* () {});
  await assert.rejects(t.run(["build", "//\ufffd"]), isRbsError(2, /not valid UTF-8/));
});

Deno.test("an agent that says it cannot begin: its sentence, exit code 36", async () => {
  await using t = await start(async function* () {
    throw new RpcError(Code.UNAVAILABLE, "The namespace of the session is gone.");
  });
  await assert.rejects(t.run(["build"]), isRbsError(36, /cannot be started .*: The namespace of the session is gone/));
});

Deno.test("RBS_FALLBACK=local is for a server that cannot be had, never for a command that may have begun", async () => {
  await using t = await start(async function* () {
    yield stdout("begun");
    throw new RpcError(Code.INTERNAL, "crash");
  });
  t.settings.fallback = "local";
  await assert.rejects(t.run(["build"]), isRbsError(37, /lost while Bazel ran/));
  assert.deepEqual(t.said, []);
});

Deno.test("where agents have copies of workspaces only, a proxy that is not there is named", async () => {
  await using t = await start(async function* () {});
  t.orchestrator.synced = true;
  await assert.rejects(t.run(["build"]), isRbsError(36, /proxy is not at .*\/javabase: make it with .*RBS_JAVABASE/));
  assert.equal(t.orchestrator.requests.length, 0, "a session that the proxy would have to replace is not begun");
});
