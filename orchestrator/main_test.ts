import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { Agent } from "../proto/contract/gen/rbs/v1/agent_pb.ts";
import { type GetServerResponse, Orchestrator, SessionStatus } from "../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import type { Credentials } from "../proto/identity/credentials.ts";
import { discoverAuthority } from "../proto/enrolment/discovery.ts";
import { enrol, renew } from "../proto/enrolment/enrolment.ts";
import { readInvitation } from "../proto/enrolment/invitation.ts";
import { readCredentials } from "../proto/identity/key_directory.ts";
import { Code, createRpcClient, RpcError } from "../proto/transport/rpc/client.ts";
import { randomToken } from "../proto/base/state_directory.ts";
import { TestAuthority } from "../proto/testing/certificates.ts";
import { repoHash } from "../proto/bazel/workspace.ts";
import { INHERITED_VARIABLES } from "./compute/process/agent_environment.ts";
import { SqliteStore } from "./store/sqlite_store.ts";
import { SpannerEmulator, withEmulator } from "./testing/spanner_emulator.ts";
import { tempDirSync } from "../tests/support/temp_dir.ts";
import { eventually } from "../tests/support/eventually.ts";

const MAIN = join(import.meta.dirname!, "main.ts");
const FAKE_AGENT = join(import.meta.dirname!, "testing/fake_agent.ts");
const FLAG_VARIABLES = [
  "RBS_LOCAL_MODE",
  "RBS_PORT",
  "RBS_STATE_DIR",
  "RBS_STORAGE_ROOT",
  "RBS_STORE",
  "RBS_AGENT",
  "RBS_LEASE_SECONDS",
  "RBS_IDLE_TIMEOUT",
  "RBS_SECOND_IDLE_TIMEOUT",
  "RBS_TAKEOVER",
  "RBS_START_TIMEOUT",
  "RBS_REGION",
  "RBS_LISTEN",
  "RBS_WORKSPACE",
  "RBS_ON_BOUNCE",
  "RBS_MAX_AGENTS",
  "RBS_MAX_AGENTS_PER_USER",
  "RBS_WARM",
  "RBS_SESSION_MEMORY",
  "RBS_SESSION_CPUS",
  "RBS_SESSION_PIDS",
  "RBS_UNSHARE_NET",
  "RBS_CA_CERT",
  "RBS_CA_KEY",
  "XDG_STATE_HOME",
];

/** An address of this machine that is none of localhost's. */
const OTHER_LOOPBACK = "127.0.0.2";

/** All that the orchestrator may do. */
function permissions(stateDir: string, agent: string): string[] {
  return [
    "--no-prompt",
    "--ignore-env",
    `--allow-env=${[...INHERITED_VARIABLES, ...FLAG_VARIABLES].join()}`,
    `--allow-net=127.0.0.1,[::1],${OTHER_LOOPBACK},192.0.2.1`,
    `--allow-read=${stateDir},${agent}`,
    `--allow-write=${stateDir}`,
    `--allow-run=${agent}`,
  ];
}

/** What it may do beside that when its store is on Spanner. */
function spannerPermissions(): string[] {
  const [packages] = createRequire(import.meta.url).resolve("@google-cloud/spanner").split("/@google-cloud/");
  return [
    `--allow-read=${packages}`,
    "--allow-env=SPANNER_*,GOOGLE_*,GCLOUD_PROJECT,METADATA_SERVER_DETECTION",
    "--allow-sys=uid,networkInterfaces",
  ];
}

/** A state directory with a fake agent program, and the orchestrators that a test starts on it. */
class World implements AsyncDisposable {
  readonly temp = tempDirSync();
  readonly stateDir = join(this.temp.path, "state");
  readonly agent = join(this.temp.path, "agent");
  readonly #started: Running[] = [];
  /** Where the orchestrators find Spanner. */
  emulator: SpannerEmulator | undefined;

  constructor() {
    const quoted = (s: string) => `'${s.replaceAll("'", "'\\''")}'`;
    Deno.writeTextFileSync(
      this.agent,
      `#!/bin/sh\nexec ${quoted(Deno.execPath())} run -A ${quoted(FAKE_AGENT)}\n`,
      { mode: 0o700 },
    );
  }

  command(...flags: string[]): Deno.Command {
    const more = this.emulator ? spannerPermissions() : [];
    return new Deno.Command(Deno.execPath(), {
      args: ["run", ...permissions(this.stateDir, this.agent), ...more, MAIN, ...flags],
      clearEnv: true,
      env: {
        HOME: Deno.env.get("HOME")!,
        PATH: Deno.env.get("PATH")!,
        DENO_DIR: Deno.env.get("DENO_DIR") ?? "",
        USER: "ann",
        NO_COLOR: "1",
        RBS_STATE_DIR: this.stateDir,
        RBS_AGENT: this.agent,
        ...this.emulator && { SPANNER_EMULATOR_HOST: this.emulator.address },
      },
      stdout: "piped",
      stderr: "piped",
    });
  }

  async start(...flags: string[]): Promise<Running> {
    const child = this.command("--local-mode", "--port=0", ...flags).spawn();
    const stderr = new Response(child.stderr).text();
    const [forLine, forAll] = child.stdout.tee();
    const stdout = new Response(forAll).text();
    let line = "";
    for await (const part of forLine.pipeThrough(new TextDecoderStream())) if ((line += part).includes("\n")) break;
    const port = Number(/ready on \S+:(\d+) /.exec(line)?.[1]);
    if (!port) throw new Error(`the orchestrator did not start: ${await stderr}`);
    const running = { child, port, line, stdout, stderr };
    this.#started.push(running);
    return running;
  }

  /** Runs the orchestrator to its end, which is at once. */
  async fails(code: number, pattern: RegExp, ...flags: string[]): Promise<void> {
    const output = await this.command(...flags).output();
    const stderr = new TextDecoder().decode(output.stderr);
    assert.match(stderr, pattern);
    assert.equal(stderr.trimEnd().split("\n").length, 1, stderr);
    assert.equal(new TextDecoder().decode(output.stdout), "");
    assert.equal(output.code, code);
  }

  /** As this machine's user, unless others are named. */
  client(running: Running, host = "localhost", credentials: Credentials = readCredentials(this.stateDir)) {
    return createRpcClient(Orchestrator, `${host}:${running.port}`, {
      tls: { credentials, expected: { kind: "orchestrator" } },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { child } of this.#started) {
      try {
        child.kill("SIGTERM");
      } catch {
        // It has ended.
      }
      await child.status;
    }
    await this.emulator?.[Symbol.asyncDispose]();
    this.temp[Symbol.dispose]();
  }
}

interface Running {
  readonly child: Deno.ChildProcess;
  readonly port: number;
  readonly line: string;
  readonly stdout: Promise<string>;
  readonly stderr: Promise<string>;
}

function request(...startupOptions: string[]) {
  return { repoHash: repoHash("/ws"), sessionId: randomToken(), sourcePath: "/ws", startupOptions };
}

/** The process id of the agent of a session. */
async function agentPid(world: World, server: GetServerResponse): Promise<number> {
  const { port, agentId } = server.session!.agent!;
  using client = createRpcClient(Agent, `127.0.0.1:${port}`, {
    token: server.accessToken,
    tls: { credentials: readCredentials(world.stateDir), expected: { kind: "agent", agentId } },
  });
  const call = client.executeCommand();
  await call.send({ message: { case: "init", value: { args: ["who"] } } });
  let answer = "";
  for await (const { message } of call) {
    if (message.case === "stdout") answer += new TextDecoder().decode(message.value);
  }
  return JSON.parse(answer).pid;
}

function isAlive(pid: number): boolean {
  return new Deno.Command("kill", { args: ["-0", String(pid)], stderr: "null" }).outputSync().success;
}

function rejects(promise: Promise<unknown>, code: Code, message: RegExp): Promise<void> {
  return assert.rejects(promise, (e: unknown) => {
    assert(e instanceof RpcError, String(e));
    assert.match(e.message, message);
    assert.equal(e.code, code);
    return true;
  });
}

function test(promise: string, run: (world: World) => Promise<void>): void {
  Deno.test({
    name: promise,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      await using world = new World();
      await run(world);
    },
  });
}

test("it prints one line, serves localhost by all its names, and takes its agents along", async (world) => {
  const running = await world.start();
  assert.equal(running.line, `rbs orchestrator ready on localhost:${running.port} (state in ${world.stateDir})\n`);
  let pid = 0;
  for (const host of ["localhost", "127.0.0.1", "[::1]"]) {
    using client = world.client(running, host);
    const server = await client.getServer(request());
    assert.equal(server.session?.status, SessionStatus.READY);
    pid = await agentPid(world, server);
  }
  assert(isAlive(pid));
  running.child.kill("SIGTERM");
  assert.equal((await running.child.status).code, 0);
  assert.equal(isAlive(pid), false);
  assert.equal(await running.stdout, running.line);
});

test("it ends as asked also when that is asked as soon as it says that it is ready", async (world) => {
  const running = await world.start();
  running.child.kill("SIGTERM");
  assert.equal((await running.child.status).code, 0);
});

test("with --listen, it and its agents are at that address only", async (world) => {
  const running = await world.start(`--listen=${OTHER_LOOPBACK}`);
  assert.match(running.line, /^rbs orchestrator ready on 127\.0\.0\.2:\d+ \(/);
  using client = world.client(running, OTHER_LOOPBACK);
  const { agent } = (await client.getServer(request())).session!;
  assert.equal(agent!.host, OTHER_LOOPBACK);
  for (const port of [running.port, agent!.port]) {
    (await Deno.connect({ hostname: OTHER_LOOPBACK, port })).close();
    await assert.rejects(Deno.connect({ hostname: "127.0.0.1", port }), Deno.errors.ConnectionRefused);
  }
});

test("agents that were started ahead outlive the orchestrator, are the next one's, and are replaced", async (world) => {
  /** The process id of the agent that waits, once it is another one than `former`. */
  const waiting = async (former?: number) => {
    await using store = SqliteStore.open(join(world.stateDir, "sessions.sqlite"));
    const agent = await eventually(async () =>
      (await store.warmAgents.list()).find(({ agentPort, handle }) => agentPort !== 0 && parseInt(handle) !== former)
    );
    return parseInt(agent.handle);
  };
  const first = await world.start("--warm=1", "--workspace=synced");
  const killed = await waiting();
  new Deno.Command("kill", { args: ["-9", String(killed)] }).outputSync();
  const pid = await waiting(killed);
  first.child.kill("SIGKILL");
  await first.child.status;
  assert(isAlive(pid));
  const second = await world.start("--warm=1", "--workspace=synced");
  using client = world.client(second);
  const server = await client.getServer(request());
  assert.equal(await agentPid(world, server), pid);
  assert.equal(server.synced, true);
  const next = await waiting(pid);
  // Its log went along with the agent.
  const storage = join(world.stateDir, "storage");
  assert.equal(Deno.statSync(join(storage, "ann", repoHash("/ws"), "agent.log")).isFile, true);
  second.child.kill("SIGTERM");
  assert.equal((await second.child.status).code, 0);
  assert.equal(isAlive(next), false);
  // Of one that it took over it sees only its connection's end.
  await eventually(() => !isAlive(pid));
});

test("synced sessions are told to agents and callers", async (world) => {
  const running = await world.start("--workspace=synced");
  using client = world.client(running);
  const server = await client.getServer(request("--fake=incomplete"));
  assert.equal(server.synced, true);
  assert.equal(server.missingInstallBase, "/install");
  assert.equal((await client.listSessions({})).synced, true);
});

test("what is kept is for its owner only", async (world) => {
  const running = await world.start();
  using client = world.client(running);
  await client.getServer(request());
  const mode = (path: string) => Deno.statSync(join(world.stateDir, path)).mode! & 0o777;
  assert.equal(mode(""), 0o700);
  assert.equal(mode("keys"), 0o700);
  const keys = Array.from(Deno.readDirSync(join(world.stateDir, "keys")), ({ name }) => name).sort();
  assert.deepEqual(keys, ["authority.pem", "ca.crt", "orchestrator.pem", "user.pem"]);
  for (const key of keys) assert.equal(mode(join("keys", key)), 0o600);
  assert.equal(mode("storage"), 0o700);
  for (const file of ["sessions.sqlite", "sessions.sqlite-wal", "sessions.sqlite-shm"]) assert.equal(mode(file), 0o600);
});

test("all methods work, each with its errors", async (world) => {
  const running = await world.start();
  {
    const { authorities, trustDomain } = readCredentials(world.stateDir);
    const self = await (await TestAuthority.make()).certify({ uris: [`spiffe://${trustDomain}/user/ann`] });
    using stranger = world.client(running, "localhost", { ...self, authorities, trustDomain });
    await rejects(stranger.getServer(request()), Code.UNAUTHENTICATED, /not of the authority that is trusted here/);
    await rejects(stranger.listSessions({}), Code.UNAUTHENTICATED, /run `jbazel login`/);
  }
  using client = world.client(running);
  assert.equal((await client.listSessions({ userId: "ann" })).sessions.length, 0);
  await rejects(
    client.getServer({ ...request(), userId: "bob" }),
    Code.PERMISSION_DENIED,
    /User "ann" may not act for user "bob"/,
  );
  await rejects(client.getServer(request("x".repeat(5 << 20))), Code.RESOURCE_EXHAUSTED, /./);
  await rejects(client.getServer(request("--fake=exit")), Code.FAILED_PRECONDITION, /no JDK here/);

  const steps: string[] = [];
  let server: GetServerResponse | undefined;
  const wanted = request("--x");
  for await (const { event } of client.getServerStream(wanted)) {
    if (event.case === "step") steps.push(event.value.description);
    if (event.case === "server") server = event.value;
  }
  assert.deepEqual(steps, ["starting agent", "agent process started", "starting Bazel server"]);
  assert.equal(server?.session?.sessionId, wanted.sessionId);
  assert.equal((await client.heartbeat(wanted)).intervalSeconds, 30);
  const { sessions } = await client.listSessions({});
  assert.deepEqual(sessions.map((s) => ({ ...s, lastHeartbeat: undefined })), [
    { ...server!.session, lastHeartbeat: undefined },
  ]);
  assert.deepEqual((await client.releaseServer(wanted)).released, true);
  await rejects(client.heartbeat(wanted), Code.NOT_FOUND, /no such session/);

  await rejects(client.getServer(request("--fake=slow"), { timeoutMs: 300 }), Code.DEADLINE_EXCEEDED, /./);
  const [pending] = (await client.listSessions({})).sessions;
  assert.equal(pending.status, SessionStatus.PENDING);
  await rejects(
    (async () => {
      for await (const _ of client.getServerStream({ ...request(), region: "a b" }));
    })(),
    Code.INVALID_ARGUMENT,
    /region/,
  );
});

test("who wants an agent too many is told by steps, waits as long as the deadline says, and is served in turn", async (world) => {
  const running = await world.start("--max-agents=1", "--on-bounce=replace");
  using client = world.client(running);
  const first = request();
  await client.getServer(first);
  const other = { ...request("--x"), repoHash: repoHash("/other"), sourcePath: "/other" };
  await rejects(client.getServer(other, { timeoutMs: 300 }), Code.DEADLINE_EXCEEDED, /./);
  const steps: string[] = [];
  for await (const { event } of client.getServerStream(other)) {
    if (event.case === "step") steps.push(event.value.description);
    if (steps.length === 1) await client.releaseServer(first);
  }
  assert.deepEqual(steps.slice(0, 2), ["waiting for a free agent: 1 of 1 run, you are next", "starting agent"]);
  steps.length = 0;
  for await (const { event } of client.getServerStream({ ...other, sessionId: randomToken() })) {
    if (event.case === "step") steps.push(event.value.description);
  }
  assert.equal(steps[0], "stopping the former server, which an earlier life of the client has left behind");
});

/** Runs `orchestrator enrol|revoke …` to its end. */
async function admin(world: World, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await world.command(...args).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).trimEnd();
}

test("a user is enrolled by a token, once, and locked out by the operator, while it runs", async (world) => {
  const running = await world.start();
  const word = await admin(world, "enrol", "bob", `--address=localhost:${running.port}`);
  const invitation = readInvitation(word);
  assert(invitation, word);
  const { address, fingerprint, trustDomain, token } = invitation;
  const trusted = { authorities: await discoverAuthority(address, fingerprint), trustDomain };
  await assert.rejects(
    discoverAuthority(address, fingerprint.replace(/./g, "0")),
    /not the orchestrator that issued the token/,
  );
  const bob = await enrol({ address }, trusted, token);
  await rejects(enrol({ address }, trusted, token), Code.UNAUTHENTICATED, /it was used before/);
  using client = world.client(running, "localhost", bob);
  assert.deepEqual((await client.listSessions({})).sessions, []);
  await rejects(
    client.listSessions({ userId: "ann" }),
    Code.PERMISSION_DENIED,
    /User "bob" may not act for user "ann"/,
  );
  // On this disk bob would have the rights of the orchestrator's own user.
  const digits = "0".repeat(32);
  await rejects(
    client.getServer({ repoHash: repoHash("/ws"), sessionId: digits, sourcePath: "/ws" }),
    Code.FAILED_PRECONDITION,
    /share its disk and have the rights of its own user, .*: for bob it has to be started with --workspace=synced/,
  );
  const renewed = await renew({ address }, bob);
  assert.notEqual(renewed.certificate, bob.certificate);

  assert.match(await admin(world, "revoke", "nobody"), /^User nobody is locked out; nobody of that name has a session/);
  await admin(world, "enrol", "carol");
  assert.equal(await admin(world, "revoke", "carol"), "User carol is locked out.");
  assert.match(await admin(world, "revoke", "bob"), /^User bob is locked out/);
  await rejects(
    client.listSessions({}),
    Code.PERMISSION_DENIED,
    /User "bob" was locked out by the orchestrator's operator/,
  );
  await rejects(renew({ address }, bob), Code.PERMISSION_DENIED, /was locked out/);
  using ann = world.client(running);
  assert.deepEqual((await ann.listSessions({})).sessions, []);
  assert.equal(await admin(world, "revoke", "bob", "--undo"), "User bob is let in again.");
  assert.deepEqual((await client.listSessions({})).sessions, []);

  const store = new TextDecoder("latin1").decode(Deno.readFileSync(join(world.stateDir, "sessions.sqlite-wal")));
  assert(!store.includes(token), "the store holds the token itself");
  await world.fails(2, /user "a\/b" .*slash|holds a slash/, "enrol", "a/b");
  await world.fails(2, /its character 4 is U\+200B/, "enrol", "bob\u200b");
  await world.fails(2, /missing required argument 'user'/i, "revoke");
  await world.fails(2, /It must be from 1 to 720/, "enrol", "bob", "--hours=0");
});

async function isAdoptedAfterAKill(world: World, ...flags: string[]): Promise<void> {
  const first = await world.start(...flags);
  const wanted = request("--x");
  let before;
  {
    using client = world.client(first);
    before = await client.getServer(wanted);
  }
  const pid = await agentPid(world, before);
  first.child.kill("SIGKILL");
  await first.child.status;
  assert(isAlive(pid));
  const second = await world.start(...flags);
  using client = world.client(second);
  const after = await client.getServer(wanted);
  assert.deepEqual(after.session?.agent, before.session?.agent);
  assert.equal(after.session?.epoch, before.session?.epoch);
  assert.equal(await agentPid(world, after), pid);
  await client.releaseServer(wanted);
  assert.deepEqual((await client.listSessions({})).sessions, []);
}

test("after a kill -9 the next one takes the agents over, and nobody notices", (world) => isAdoptedAfterAKill(world));

withEmulator(() => {
  test("the same with sessions in Spanner", async (world) => {
    world.emulator = await SpannerEmulator.start();
    await isAdoptedAfterAKill(world, `--store=spanner:${await world.emulator.newDatabase()}`);
    assert(!Array.from(Deno.readDirSync(world.stateDir)).some(({ name }) => name.includes("sqlite")));
  });

  test("a store in Spanner that cannot be used is named", async (world) => {
    world.emulator = await SpannerEmulator.start();
    const store = `--store=spanner:${world.emulator.databaseName("gone")}`;
    await world.fails(
      1,
      /spanner:projects\/.*\/databases\/gone is not there .*: create the database/,
      "--local-mode",
      store,
    );
  });
});

test("with --store=sqlite:PATH the sessions are in that file", async (world) => {
  const file = join(world.stateDir, "elsewhere.sqlite");
  await isAdoptedAfterAKill(world, `--store=sqlite:${file}`);
  assert(Deno.statSync(file).size > 0);
  await assert.rejects(Deno.stat(join(world.stateDir, "sessions.sqlite")), Deno.errors.NotFound);
});

test("a second one on the same port is refused, without harm to the first", async (world) => {
  const running = await world.start();
  const other = join(world.stateDir, "other");
  const taken = new RegExp(`Port ${running.port} is in use on this machine`);
  await world.fails(1, taken, "--local-mode", `--port=${running.port}`, `--state-dir=${other}`);
  using client = world.client(running);
  assert.deepEqual((await client.listSessions({})).sessions, []);
});

test("wrong usage is one sentence and exit code 2, and help teaches", async (world) => {
  await world.fails(2, /Unknown option '--foo'/, "--foo");
  await world.fails(2, /[Ss]ay --local-mode, .* `orchestrator install`/);
  await world.fails(2, /'--port <number>' argument '65536' is invalid: it must be a whole number/, "--port=65536");
  await world.fails(2, /'--workspace <mode>' argument 'mixed' is invalid: Allowed choices/, "--workspace=mixed");
  for (const store of ["", "sqlite:", "spanner:db", "spanner:projects/p/instances/i", "postgres:x"]) {
    await world.fails(2, /'--store <where>' .* is invalid: it must be sqlite:PATH or spanner:/, `--store=${store}`);
  }
  await world.fails(
    2,
    /'--max-agents-per-user <number>' argument '-1' is invalid: it must be a whole number/,
    "--max-agents-per-user=-1",
  );
  await world.fails(2, /'--session-memory <size>' argument '8' .* at least 64M/, "--session-memory=8");
  await world.fails(2, /'--session-cpus <number>' argument 'all' .* at least 0\.01/, "--session-cpus=all");
  await world.fails(2, /'--on-bounce <rule>' argument 'fight' is invalid: Allowed choices/, "--on-bounce=fight");
  await world.fails(2, /'--listen <address>' .* is invalid: it must be localhost or an IP/, "--listen=example.org");
  await world.fails(2, /'--listen <address>' argument '::' is invalid: it must be one address/, "--listen=::");
  await world.fails(1, /This machine has no address 192\.0\.2\.1: name one/, "--local-mode", "--listen=192.0.2.1");
  await world.fails(2, /too many arguments/i, "--local-mode", "serve");
  const { code, stdout } = await world.command("--help").output();
  const help = new TextDecoder().decode(stdout);
  assert.equal(code, 0);
  for (const variable of FLAG_VARIABLES.filter((name) => name.startsWith("RBS_"))) {
    assert(help.includes(variable), variable);
  }
  assert.match(help, /Examples:/);
  for (const verb of ["install", "status", "stop", "enrol", "revoke"]) {
    assert.match(help, new RegExp(`orchestrator ${verb}`));
  }
});

test("a state that cannot be used is named, and left as it is", async (world) => {
  const file = join(world.stateDir, "sessions.sqlite");
  Deno.mkdirSync(world.stateDir, { mode: 0o700 });
  Deno.writeTextFileSync(file, "garbage ".repeat(1000));
  await world.fails(1, /sessions\.sqlite is damaged .*: move it away/, "--local-mode", "--port=0");
  assert.equal(Deno.readTextFileSync(file), "garbage ".repeat(1000));

  await world.fails(1, /storage root .* cannot be written/, "--local-mode", `--storage-root=${file}`);
  await world.fails(1, /There is no agent program at/, "--local-mode", `--agent=${world.stateDir}/agent`);

  Deno.chmodSync(world.stateDir, 0o777);
  await world.fails(1, /can be written by other users \(mode 777\)/, "--local-mode");
});
