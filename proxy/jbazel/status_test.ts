import assert from "node:assert/strict";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { SessionStatus } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { machineId } from "../session/machine_id.ts";
import { serverId } from "../session/server_id.ts";
import { FakeOrchestrator, TestPlace } from "./fake_services.ts";
import { runStatus } from "./status.ts";
import { renderAge } from "./table.ts";

async function status(place: TestPlace, orchestrator: FakeOrchestrator, json: boolean): Promise<string> {
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
  assert.equal(await runStatus({ settings, workingDirectory, env, json, say, warn, installCommand }), 0);
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
