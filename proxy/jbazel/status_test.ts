import assert from "node:assert/strict";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { SessionStatus } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { Operator } from "../../proto/contract/gen/rbs/v1/operator_pb.ts";
import { admit } from "../../proto/identity/access_rules.ts";
import { writeCredentials } from "../../proto/identity/key_directory.ts";
import { orchestratorCredentials, testAuthority } from "../../proto/testing/keys.ts";
import { RpcServer } from "../../proto/transport/rpc/server.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { machineId } from "../session/machine_id.ts";
import { serverId } from "../session/server_id.ts";
import { FakeOrchestrator, TestPlace } from "./fake_services.ts";
import { runStatus } from "./status.ts";
import { renderAge } from "./table.ts";

async function status(
  place: TestPlace,
  orchestrator: { address: string },
  json: boolean,
  allUsers = false,
): Promise<string> {
  const said: string[] = [];
  const settings = {
    orchestrator: orchestrator.address,
    stateDirectory: place.stateDirectory,
    fallback: "error" as const,
  };
  const env = (name: string) => ({ HOME: place.root, USER: "ada" })[name];
  const say = (line: string) => void said.push(line);
  const warn = (line: string) => assert.fail(line);
  const installCommand = "orchestrator install";
  const workingDirectory = `${place.workspace}/pkg`;
  assert.equal(await runStatus({ settings, workingDirectory, env, json, allUsers, say, warn, installCommand }), 0);
  return said.join("\n");
}

Deno.test("status without sessions says so, and how to set up", async () => {
  using place = new TestPlace();
  await using orchestrator = await FakeOrchestrator.start(place, 1);
  const said = await status(place, orchestrator, false);
  assert.match(said, /^No sessions of ada at /);
  assert.match(said, /not set up: .*jbazel setup/);
  assert.match(said, /no proxy is running/);
  assert.match(said, /\nBuild servers there work on your files, on a disk that is shared\.\n/);
  orchestrator.synced = true;
  assert.match(
    await status(place, orchestrator, false),
    /\nBuild servers there get a copy of your files \(synced\)\.\n/,
  );
  assert.equal(JSON.parse(await status(place, orchestrator, true)).synced, true);
});

Deno.test("status shows sessions as a table, this workspace's marked, and what failed", async () => {
  using place = new TestPlace();
  await using orchestrator = await FakeOrchestrator.start(place, 1);
  const time = (secondsAgo: number) => timestampFromMs(Date.now() - secondsAgo * 1000);
  const outputBase = `${place.root}/.cache/bazel/_bazel_ada/${repoHash(place.workspace)}`;
  const own = serverId(machineId({ stateDirectory: place.stateDirectory }), outputBase);
  orchestrator.sessions = [{
    userId: "ada",
    repoHash: repoHash(place.workspace),
    serverId: own,
    outputBase,
    sessionId: "a",
    sourcePath: place.workspace,
    status: SessionStatus.READY,
    epoch: 12,
    agent: { host: "127.0.0.1", port: 1234 },
    createdAt: time(3 * 3600),
    lastHeartbeat: time(5),
  }, {
    userId: "ada",
    repoHash: "f".repeat(32),
    sessionId: "b",
    sourcePath: "/other\n\x1b[2J",
    status: SessionStatus.FAILED,
    epoch: 1,
    failure: "It has no legs.",
  }, {
    userId: "ada",
    repoHash: repoHash(place.workspace),
    serverId: "0123456789abcdef",
    outputBase: "/of/an\nide",
    sessionId: "c",
    sourcePath: place.workspace,
    status: SessionStatus.READY,
    epoch: 1,
  }];
  const lines = (await status(place, orchestrator, false)).split("\n");
  const column = (name: string) => lines[0].indexOf(name);
  assert.equal(lines[1].indexOf("READY"), column("STATUS"));
  assert.equal(lines[2].indexOf("FAILED"), column("STATUS"));
  assert.equal(lines[1].indexOf("127.0.0.1:1234"), column("AGENT"));
  assert.ok(lines[1].startsWith(`* ${place.workspace} `));
  assert.match(lines[1], / 12 .* 3 h +[56] s ago$/);
  assert.ok(lines[2].startsWith("  /other [2J "));
  assert.deepEqual(lines.slice(1, 4).map((line) => line.slice(column("SERVER")).split(" ")[0]), [
    own,
    "-",
    "0123456789abcdef",
  ]);
  assert.ok(lines[3].startsWith(`  ${place.workspace} `));
  assert.ok(lines.includes(`  bazel would use the server ${own} here, with the output base ${outputBase}.`));
  assert.ok(lines.includes("  beside it: 0123456789abcdef, with the output base /of/an ide."));
  assert.ok(lines.includes("/other [2J failed: It has no legs."));
  const { sessions, workspace } = JSON.parse(await status(place, orchestrator, true));
  assert.equal(sessions[0].status, "READY");
  assert.equal(sessions[1].agent, null);
  assert.equal(workspace.server, "none");
  assert.deepEqual([sessions[0].server_id, sessions[1].server_id, workspace.server_id], [own, null, own]);
});

/** An operator's key beside the user's. */
async function giveOperatorKeys(place: TestPlace): Promise<void> {
  const notAfter = new Date(Date.now() + 86_400_000);
  const credentials = await (await testAuthority()).identify({ kind: "operator", name: "ops" }, {
    names: [],
    notAfter,
  });
  writeCredentials(place.stateDirectory, "operator", credentials);
}

Deno.test("status --all-users shows an operator whose each session is", async () => {
  using place = new TestPlace();
  await giveOperatorKeys(place);
  const session = { repoHash: "f".repeat(32), serverId: "0123456789abcdef", epoch: 1, sessionId: "a" };
  const sessions = [
    { ...session, userId: "ada", sourcePath: "/a", status: SessionStatus.READY },
    { ...session, userId: "bob", sourcePath: "/b", status: SessionStatus.FAILED, failure: "It has no legs." },
  ];
  await using server = new RpcServer({
    address: "127.0.0.1:0",
    credentials: await orchestratorCredentials(),
    admitStrangers: true,
    authorize: admit,
  }).add(Operator, {
    listSessions: () => Promise.resolve({ sessions }),
    endSession: () => Promise.resolve({ ended: false }),
  });
  // The first of them is gone.
  const orchestrator = { address: `127.0.0.1:1,127.0.0.1:${await server.listen()}` };
  const lines = (await status(place, orchestrator, false, true)).split("\n");
  assert.match(lines[0], /^ {2}WORKSPACE +USER +SERVER +STATUS/);
  assert.match(lines[1], /^ {2}\/a +ada +0123456789abcdef +READY/);
  assert.match(lines[2], /^ {2}\/b +bob +0123456789abcdef +FAILED/);
  assert.deepEqual(lines.slice(3), ["", "bob's /b failed: It has no legs."]);
  const { operator, sessions: told } = JSON.parse(await status(place, orchestrator, true, true));
  assert.deepEqual([operator, told.map(({ user }: { user: string }) => user)], ["ops", ["ada", "bob"]]);
  sessions.length = 0;
  assert.match(await status(place, orchestrator, false, true), /^No sessions at /);
});

Deno.test("status --all-users says in one sentence why there is nothing to see", async () => {
  using place = new TestPlace();
  const old = await FakeOrchestrator.start(place, 1);
  await using _old = old;
  const refusal = async () => {
    const failure = await status(place, old, false, true).then(() => undefined, (e) => e);
    assert(failure instanceof RbsError, String(failure));
    assert.equal(failure.exitCode, 1);
    return failure.message;
  };
  const keys = `${place.stateDirectory}/keys`;
  assert.equal(
    await refusal(),
    `status: --all-users is for operators, and there is no operator's key in ${keys}: ask for a token of ` +
      "`orchestrator enrol --operator NAME`, and give it to `jbazel login`.",
  );
  await giveOperatorKeys(place);
  assert.equal(
    await refusal(),
    `status: the orchestrator at ${old.address} is older than this jbazel and knows no operators: update it, or leave out ` +
      "--all-users.",
  );
  // A user's key does not become an operator's by its name.
  Deno.copyFileSync(`${keys}/user.pem`, `${keys}/operator.pem`);
  assert.match(await refusal(), /operator\.pem does not hold a private key and a certificate of RBS: remove it, /);
});

Deno.test("ages are short", () => {
  assert.deepEqual([-5, 4_400, 119_000, 120_000, 7_200_000, 172_800_000].map(renderAge), [
    "0 s",
    "4 s",
    "119 s",
    "2 min",
    "2 h",
    "2 d",
  ]);
});
