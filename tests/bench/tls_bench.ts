/** The way from the proxy to the agent's command port, alone and in a build: by mutual TLS against plain text. */
import { join } from "node:path";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { TestAuthority } from "../../proto/testing/certificates.ts";
import type { Bazel } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { ROOT } from "../support/repository.ts";
import { tempDir } from "../support/temp_dir.ts";
import { type TestWorkspace, testWorkspace } from "../support/workspace.ts";
import { makePlainPrograms } from "./plain_text/programs.ts";
import { interleaved, median, ms, type Result } from "./report.ts";
import { BYTES, MESSAGES, type Ports } from "./tls_agent.ts";

/** Calls one after the other that make one round: a single one is too short to be measured. */
const CALLS = 50;
/** About what a Run and its responses without output take. */
const SMALL_BYTES = 400;

/** Bazel servers on each side, and builds of each that do not count: see the benchmark of a link. */
const SERVERS = 4, WARM_UPS = 15;

/** All of it. */
export async function benchTls(bazel: Bazel, say: (text: string) => void): Promise<Result[]> {
  return [...await benchHop(say), await benchBuild(bazel, say)];
}

/** A build with nothing to do, through our programs and through the same with a command port in plain text. */
async function benchBuild(bazel: Bazel, say: (text: string) => void): Promise<Result> {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await tempDir());
  const plain = await makePlainPrograms(folder.path);
  const secureCluster = stack.use(await startCluster());
  const plainCluster = stack.use(await startCluster({ args: [`--agent=${plain.agent}`] }));
  // By turns: plain text, TLS, plain text, …
  const workspaces: TestWorkspace[] = [];
  for (let i = 0; i < 2 * SERVERS; i++) {
    const [{ env }, startupOptions] = i % 2
      ? [secureCluster, [secureCluster.serverJavabase]]
      : [plainCluster, [`--server_javabase=${plain.javabase}`]];
    workspaces.push(stack.use(await testWorkspace(bazel, { startupOptions, env })));
  }
  const build = (workspace: TestWorkspace) => async () => {
    const { code, stderr, took } = await workspace.run(["build", "//..."]);
    if (code !== 0) throw new Error(`the workspace does not build:\n${stderr}`);
    return took;
  };
  const times = await interleaved(40, WARM_UPS, workspaces.map(build), (round) => say(`no-op build, round ${round}`));
  const [a, b] = [0, 1].map((side) => median(times.filter((_, i) => i % 2 === side).flat()));
  return {
    what: "no-op build, warm",
    measured: `plain text ${ms(a)}, TLS ${ms(b)}, ratio ${(b / a).toFixed(3)}`,
    target: "ratio ≤ 1.05",
    reached: b / a <= 1.05,
  };
}

/** The hop alone. */
async function benchHop(say: (text: string) => void): Promise<Result[]> {
  const authority = await TestAuthority.make();
  const expected = { kind: "agent", agentId: "a".repeat(32) } as const;
  const own = await authority.identify({ kind: "user", userId: "bench" });
  const agent = new Deno.Command(Deno.execPath(), {
    args: ["run", "--frozen", "--allow-all", join(ROOT, "tests/bench/tls_agent.ts")],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const input = agent.stdin.getWriter();
  await input.write(new TextEncoder().encode(`${JSON.stringify(await authority.identify(expected))}\n`));
  const answer = agent.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const ports: Ports = JSON.parse((await answer.read()).value ?? "null");
  try {
    const plain = () => new Connection("127.0.0.1", ports.plain, { keepAlive: true });
    const secure = () => {
      const tls = { credentials: () => own, expected };
      return new Connection("127.0.0.1", ports.tls, { keepAlive: true, tls });
    };
    using a = plain();
    using b = secure();
    return [
      await benchConnect([plain, secure], say),
      await benchSmall([a, b], say),
      await benchLarge("200 MB from the agent", [a, b], down, say),
      await benchLarge("200 MB to the agent", [a, b], up, say),
    ];
  } finally {
    await input.close();
    await agent.status;
    await answer.cancel();
  }
}

async function timed(what: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await what();
  return performance.now() - began;
}

async function echo(connection: Connection): Promise<void> {
  const { code, message } = await connection.unary("/bench.Tls/Echo", new Uint8Array(SMALL_BYTES));
  if (code !== 0) throw new Error(message);
}

/** What a new connection adds to its first call. There is one in a proxy's life, unless a link breaks. */
async function benchConnect(sides: (() => Connection)[], say: (text: string) => void): Promise<Result> {
  const [a, b] = (await interleaved(
    100,
    20,
    sides.map((connect) => () =>
      timed(async () => {
        using connection = connect();
        await echo(connection);
      })
    ),
    (round) => say(`a new connection, round ${round}`),
  )).map(median);
  return row("a new connection and a small call", a, b, b - a, 10);
}

async function benchSmall(sides: Connection[], say: (text: string) => void): Promise<Result> {
  const [a, b] = (await interleaved(
    60,
    10,
    sides.map((connection) => async () =>
      await timed(async () => {
        for (let i = 0; i < CALLS; i++) await echo(connection);
      }) / CALLS
    ),
    (round) => say(`small calls, round ${round}`),
  )).map(median);
  // A warm build with nothing to do takes some 70 ms, and ten messages one after the other: 5 % of it are 0.35 ms each.
  return row("a small call", a, b, b - a, 0.35);
}

function row(what: string, a: number, b: number, added: number, most: number): Result {
  return {
    what: `${what}, mutual TLS`,
    measured: `plain ${ms(a)}, TLS ${ms(b)}, added ${ms(added)}`,
    target: `added ≤ ${most} ms`,
    reached: added <= most,
  };
}

async function down(connection: Connection): Promise<void> {
  const call = await connection.call("/bench.Tls/Down", {}, { lends: true });
  call.end();
  let bytes = 0;
  for await (const message of call.responses()) bytes += message.length;
  if (bytes !== MESSAGES * BYTES) throw new Error(`${bytes} bytes came`);
}

async function up(connection: Connection): Promise<void> {
  const call = await connection.call("/bench.Tls/Up");
  const message = new Uint8Array(BYTES);
  for (let i = 0; i < MESSAGES; i++) await call.send(message, () => {});
  call.end();
  for await (const _ of call.responses());
}

async function benchLarge(
  what: string,
  sides: Connection[],
  move: (connection: Connection) => Promise<void>,
  say: (text: string) => void,
): Promise<Result> {
  const rounds = sides.map((connection) => () => timed(() => move(connection)));
  const [a, b] = (await interleaved(15, 3, rounds, (round) => say(`${what}, round ${round}`))).map(median);
  // What a link of 1 Gbit/s carries.
  const speed = MESSAGES * BYTES / 1e6 / (b / 1000);
  return {
    what: `${what}, mutual TLS`,
    measured: `plain ${ms(a)}, TLS ${ms(b)}, ratio ${(b / a).toFixed(2)}, ${speed.toFixed(0)} MB/s`,
    target: "≥ 125 MB/s",
    reached: speed >= 125,
  };
}
