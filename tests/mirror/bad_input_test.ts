/** Wrong usage, damaged files and garbage on the ports: one clear sentence, and nothing breaks. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import {
  encodeFrame,
  Flag,
  frameHeader,
  FrameType,
  numberFrame,
  PREFACE,
  settingsFrame,
} from "../../proto/transport/http2/frames.ts";
import { encodeHeaders, type Headers } from "../../proto/transport/http2/hpack.ts";
import { callHeaders, Status } from "../../proto/transport/grpc/calls.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { startCluster } from "../support/cluster.ts";
import { PROGRAMS } from "../support/repository.ts";
import { run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { eventually } from "../support/eventually.ts";
import { isAlive } from "./support/processes.ts";
import { Exit, type Rig, rig, test } from "./support/rig.ts";

let shared: Promise<Rig> | undefined;

/** The rig that is fed with garbage. */
function sharedRig(): Promise<Rig> {
  return shared ??= rig();
}

Deno.test.afterAll(async () => await (await shared)?.[Symbol.asyncDispose]());

/** Expects that a program refuses, with this code, in one line that fits. */
async function refuses(argv: readonly string[], code: number, says: RegExp, env: Record<string, string> = {}) {
  const finished = await run(argv, { env: { ...env, RBS_PORT: "0" }, timeout: 20_000 });
  assert.equal(finished.code, code, `${argv.join(" ")}: ${finished.stdout}${finished.stderr}`);
  assert.equal(finished.stdout, "");
  assert.match(finished.stderr, /^[^\n]+\.\n$/, "it is not one sentence");
  assert.match(finished.stderr, says);
}

// --- wrong usage

test("an unknown flag is named, with exit code 2", async () => {
  await using state = await tempDir();
  for (const argv of [[PROGRAMS.orchestrator, "--local-mode"], [PROGRAMS.agent], [PROGRAMS.jbazel, "setup"]]) {
    await refuses([...argv, "--nonsense"], 2, /'--nonsense'/, { RBS_STATE_DIR: state.path });
  }
  await refuses([PROGRAMS.orchestrator, "--local-mode", "--port=http"], 2, /--port.*whole number/);
});

test("programs that another one starts say so when they are run by hand", async () => {
  for (const args of [[], ["-version"]]) {
    await refuses([PROGRAMS.java, ...args], 36, /stands in for a Bazel server's JVM/);
  }
  await refuses([PROGRAMS.agent], 2, /the orchestrator starts agents/);
});

// --- an orchestrator that cannot start

/** Expects that an orchestrator with this state directory does not start. */
async function cannotStart(state: string, says: RegExp, ...args: string[]) {
  await refuses([PROGRAMS.orchestrator, "--local-mode", "--port=0", ...args], 1, says, { RBS_STATE_DIR: state });
}

test("a port in use is named", async () => {
  const { cluster } = await sharedRig();
  await using state = await tempDir();
  await cannotStart(state.path, /Port \d+ is in use/, `--port=${cluster!.port}`);
  await (await sharedRig()).buildsQuickly();
});

test("a storage root or a state directory that cannot be written is named", async () => {
  await using state = await tempDir();
  await Deno.writeTextFile(state.join("file"), "");
  for (const wrong of [state.join("file"), state.join("file", "below"), "/proc/rbs"]) {
    await cannotStart(state.path, /The storage root .* cannot be written/, `--storage-root=${wrong}`);
    await cannotStart(wrong, /The state directory .* cannot be written/);
  }
});

test("a damaged session store is named, and left as it is", async () => {
  await using state = await tempDir();
  const file = state.join("sessions.sqlite");
  const damaged = crypto.getRandomValues(new Uint8Array(20_000));
  await Deno.writeFile(file, damaged);
  await cannotStart(state.path, /The session store .*sessions\.sqlite is damaged/);
  assert.deepEqual(await Deno.readFile(file), damaged);
  // Damaged in the middle: the header is right.
  await Deno.remove(file);
  await (await startCluster({ state: state.path }))[Symbol.asyncDispose]();
  // What is in the write-ahead log would mend it.
  const database = new DatabaseSync(file);
  database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  database.close();
  const store = await Deno.readFile(file);
  store.fill(0xff, 4096);
  await Deno.writeFile(file, store);
  await cannotStart(state.path, /The session store .*sessions\.sqlite is damaged/);
  assert.deepEqual(await Deno.readFile(file), store);
});

test("a key that other users can read is refused", async () => {
  await using state = await tempDir();
  await (await startCluster({ state: state.path }))[Symbol.asyncDispose]();
  const key = state.join("keys/authority.pem");
  assert.equal((await Deno.stat(key)).mode! & 0o777, 0o600);
  await Deno.chmod(key, 0o640);
  await cannotStart(state.path, /The key .*authority\.pem can be read by other users \(mode 640\)/);
});

// --- garbage on the ports

interface Ports {
  proxy: number;
  commands: number;
  agent: number;
  orchestrator: number;
}

async function portsOf(one: Rig): Promise<Ports> {
  const address = await Deno.readTextFile(join(one.outputBase, "server/command_port"));
  for await (const user of Deno.readDir(join(one.cluster!.state, "storage"))) {
    for await (const session of Deno.readDir(join(one.cluster!.state, "storage", user.name))) {
      const log = await Deno.readTextFile(join(one.cluster!.state, "storage", user.name, session.name, "agent.log"));
      const [, agent, commands] = /listens at [^ ]*:(\d+), commands at port (\d+)/.exec(log)!;
      return {
        proxy: Number(address.split(":").at(-1)),
        commands: Number(commands),
        agent: Number(agent),
        orchestrator: one.cluster!.port,
      };
    }
  }
  throw new Error("there is no agent.log");
}

/** A call's headers, as a client would send them on stream `id`. */
function call(id: number, path: string, flags: number = Flag.END_HEADERS): Uint8Array {
  const headers = encodeHeaders(callHeaders("localhost", path, { authorization: "Bearer wrong" }));
  return encodeFrame(FrameType.HEADERS, flags, id, headers);
}

const RUN = "/command_server.CommandServer/Run";
const EXECUTE = "/rbs.v1.Agent/ExecuteCommand";
const GET_SERVER = "/rbs.v1.Orchestrator/GetServer";
const BEGIN = Buffer.concat([PREFACE, settingsFrame([])]);
const NO_REASON = new Uint8Array(8);

/** What is sent, by what it is. */
const GARBAGE: Record<string, () => Uint8Array> = {
  "random bytes": () => crypto.getRandomValues(new Uint8Array(60_000)),
  "an HTTP/1 request": () => Buffer.from("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"),
  "the beginning of a preface": () => PREFACE.subarray(0, 10),
  "a frame that is cut short": () => Buffer.concat([BEGIN, call(1, RUN).subarray(0, 20)]),
  "random frames": () => Buffer.concat([BEGIN, crypto.getRandomValues(new Uint8Array(60_000))]),
  "a frame of 16 MB": () => Buffer.concat([BEGIN, frameHeader(0xffffff, FrameType.DATA, 0, 1), new Uint8Array(60_000)]),
  "headers that cannot be decoded": () =>
    Buffer.concat([BEGIN, encodeFrame(FrameType.HEADERS, Flag.END_HEADERS, 1, new Uint8Array(50).fill(0xff))]),
  "endless headers": () =>
    Buffer.concat([
      BEGIN,
      call(1, RUN, 0),
      ...Array.from({ length: 3_000 }, () => encodeFrame(FrameType.CONTINUATION, 0, 1, new Uint8Array(0))),
    ]),
  "messages of 4 GB": () =>
    Buffer.concat([
      BEGIN,
      ...[RUN, EXECUTE, GET_SERVER].flatMap((path, i) => [
        call(2 * i + 1, path),
        encodeFrame(FrameType.DATA, 0, 2 * i + 1, Buffer.from([0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3])),
      ]),
    ]),
  "messages that are cut short": () =>
    Buffer.concat([
      BEGIN,
      ...[RUN, EXECUTE, GET_SERVER].flatMap((path, i) => [
        call(2 * i + 1, path),
        encodeFrame(FrameType.DATA, Flag.END_STREAM, 2 * i + 1, Buffer.from([0, 0, 0, 0, 9, 1, 2, 3])),
      ]),
    ]),
  "messages that are no protobuf": () =>
    Buffer.concat([
      BEGIN,
      ...[RUN, EXECUTE, GET_SERVER].flatMap((path, i) => [
        call(2 * i + 1, path),
        encodeFrame(FrameType.DATA, Flag.END_STREAM, 2 * i + 1, Buffer.from([0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff])),
      ]),
    ]),
  "calls that are reset at once": () =>
    Buffer.concat([
      BEGIN,
      ...Array.from(
        { length: 500 },
        (_, i) => Buffer.concat([call(2 * i + 1, RUN), numberFrame(FrameType.RST_STREAM, 2 * i + 1, 8)]),
      ),
    ]),
  "GOAWAY after many calls": () =>
    Buffer.concat([
      BEGIN,
      ...Array.from({ length: 100 }, (_, i) => call(2 * i + 1, RUN)),
      encodeFrame(FrameType.GOAWAY, 0, 0, NO_REASON),
      call(201, RUN),
    ]),
  "frames that are out of place": () =>
    Buffer.concat([
      BEGIN,
      numberFrame(FrameType.WINDOW_UPDATE, 0, 0),
      encodeFrame(FrameType.PUSH_PROMISE, 4, 1, new Uint8Array(8)),
      encodeFrame(FrameType.DATA, 0, 0, new Uint8Array(8)),
      encodeFrame(FrameType.PING, 0, 1, new Uint8Array(3)),
    ]),
};

/** Sends bytes, then waits until the other side hangs up, or has nothing more to say for a moment. */
async function send(port: number, bytes: Uint8Array) {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const reading = (async () => {
    const buffer = new Uint8Array(1 << 16);
    while (await connection.read(buffer) !== null);
  })().catch(() => {});
  const writing = (async () => {
    for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
  })().catch(() => {});
  const patience = Promise.withResolvers<void>();
  const timer = setTimeout(patience.resolve, 300);
  await Promise.race([Promise.all([reading, writing]), patience.promise]);
  clearTimeout(timer);
}

test("garbage on any port ends a connection at most", async () => {
  const one = await sharedRig();
  await one.buildsQuickly();
  const ports = await portsOf(one);
  const pids = {
    proxy: await one.proxy(),
    commands: (await one.agent()).pid,
    agent: (await one.agent()).pid,
    orchestrator: one.cluster!.orchestrator.pid,
  };
  const server = await one.server();
  await using build = one.start(["build", "//:patient"]);
  await one.acting();
  for (const [what, bytes] of Object.entries(GARBAGE)) {
    for (const name of ["proxy", "commands", "agent", "orchestrator"] as const) {
      await send(ports[name], bytes());
      assert(await isAlive(pids[name]), `${what} ended the program behind the port "${name}"`);
    }
  }
  await one.go();
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.OK, stderr);
  await one.buildsQuickly();
  assert.equal(await one.proxy(), pids.proxy);
  assert.equal((await one.server()).pid, server.pid);
  // And those ports serve calls still: a fresh proxy needs them all.
  await one.run(["shutdown"]);
  await one.buildsQuickly();
});

test("who does not know the secrets gets nothing done", async () => {
  const one = await sharedRig();
  await one.buildsQuickly();
  const ports = await portsOf(one);
  const server = await one.server();
  const shutdown = encodeFields([[1, "0123456789abcdef0123456789abcdef"], [2, "shutdown"]]);
  for (const [name, path] of [["proxy", RUN], ["commands", RUN], ["orchestrator", GET_SERVER]] as const) {
    using connection = new Connection("127.0.0.1", ports[name]);
    for (const headers of [{} as Headers, { authorization: "Bearer 0123456789abcdef0123456789abcdef" }]) {
      const { code, message } = await connection.unary(path, shutdown, { headers });
      // Orchestrator and agent do not answer at all to what is no TLS.
      const refusal = name === "proxy" ? Status.UNAUTHENTICATED : Status.UNAVAILABLE;
      assert.equal(code, refusal, `${name}: ${message}`);
    }
  }
  assert(await isAlive(server.pid));
  await one.buildsQuickly();
});

test("a client that only connects, a thousand times, leaves nothing behind", async () => {
  const one = await sharedRig();
  await one.buildsQuickly();
  const ports = await portsOf(one);
  const pids = [await one.proxy(), (await one.agent()).pid, one.cluster!.orchestrator.pid];
  const sockets = async () => {
    let count = 0;
    for (const pid of pids) for await (const _ of Deno.readDir(`/proc/${pid}/fd`)) count++;
    return count;
  };
  const before = await sockets();
  for (let round = 0; round < 5; round++) {
    const connections = await Promise.all(
      Object.values(ports).flatMap((port) =>
        Array.from({ length: 50 }, () => Deno.connect({ hostname: "127.0.0.1", port }))
      ),
    );
    for (const connection of connections) connection.close();
  }
  await eventually(async () => await sockets() <= before + 5, "the connections are closed");
  await one.buildsQuickly();
});

// --- long names

test("paths longer than a socket's name may be work", async () => {
  await using directory = await tempDir();
  const state = join(directory.path, "s".repeat(150), "state");
  await Deno.mkdir(state, { recursive: true, mode: 0o700 });
  await using cluster = await startCluster({ state });
  await using one = await rig({ cluster, name: "w".repeat(200), outputBase: `${"o".repeat(150)}/${"b".repeat(50)}` });
  await one.buildsQuickly();
  assert.equal(await Deno.readTextFile(join(one.workspace.path, "bazel-bin/quick.txt")), "quick\n");
});
