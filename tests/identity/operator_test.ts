/** An operator, from the token to the end of a user's session, by the real programs; only the agents are fakes. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { OrchestratorPrograms } from "../../orchestrator/testing/orchestrator_programs.ts";
import { Operator } from "../../proto/contract/gen/rbs/v1/operator_pb.ts";
import { Orchestrator } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { readCredentials } from "../../proto/identity/key_directory.ts";
import { Code, createRpcClient, RpcError } from "../../proto/transport/rpc/client.ts";
import { ROOT } from "../support/repository.ts";
import { tempDir } from "../support/temp_dir.ts";

/** Runs a program from its source to its end. */
async function program(main: string, args: string[], env: Record<string, string>, input = "") {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--frozen", "-A", "--no-check", join(ROOT, main), ...args],
    cwd: "/",
    env: { NO_COLOR: "1", USER: "ann", RBS_DEBUG: "", ...env },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  const { code, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trimEnd();
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

Deno.test({
  name: "an operator is enrolled by a token, sees everybody's sessions by jbazel, ends one, and can be locked out",
  // gRPC's channels close a moment after they are told to.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await using world = new OrchestratorPrograms(["--allow-shared-users"]);
    await using laptop = await tempDir();
    const running = await world.start();
    const address = `127.0.0.1:${running.port}`;
    const admin = async (...args: string[]) => {
      const { code, stdout, stderr } = await program("orchestrator/main.ts", args, { RBS_STATE_DIR: world.stateDir });
      assert.equal(code, 0, stderr);
      return stdout;
    };
    const enrol = async (...args: string[]) => {
      const token = await admin("enrol", ...args, `--address=${address}`);
      const { code, stdout, stderr } = await jbazel(["login"], token);
      assert.equal(code, 0, stderr);
      return stdout;
    };
    const jbazel = (args: string[], input?: string) =>
      program("proxy/jbazel/main.ts", args, {
        RBS_STATE_DIR: laptop.path,
        RBS_ORCHESTRATOR_ADDR: address,
        HOME: laptop.path,
      }, input);

    // ann's, on the orchestrator's machine, and bob's, from another.
    using ann = world.client(running);
    const server = await ann.getServer(world.request("/ws"));
    assert.match(await enrol("bob"), /^You are bob to the orchestrator/);
    const tls = (holder: "user" | "operator") =>
      ({ credentials: readCredentials(laptop.path, holder), expected: { kind: "orchestrator" } }) as const;
    using bob = createRpcClient(Orchestrator, address, { tls: tls("user") });
    await bob.getServer(world.request("/his"));

    const all = (...more: string[]) => jbazel(["status", "--all-users", ...more]);
    const plain = await all();
    assert.deepEqual([plain.code, plain.stdout], [1, ""]);
    assert.match(
      plain.stderr,
      /^jbazel: status: --all-users is for operators, and there is no operator's key in [^\n]*$/,
    );
    using asOperator = createRpcClient(Operator, address, { tls: tls("user") });
    await assert.rejects(asOperator.listSessions({}), (e) => {
      const { code, message } = RpcError.from(e);
      assert.deepEqual([code, message], [
        Code.PERMISSION_DENIED,
        'User "bob" may not do session.list-any, which is for operators.',
      ]);
      return true;
    });

    assert.match(await enrol("--operator", "bob"), /^You are operator bob to the orchestrator/);
    const shown = await all();
    assert.deepEqual([shown.code, shown.stderr], [0, ""]);
    assert.match(shown.stdout, /^ {2}\/ws +ann +\S+ +READY/m);
    assert.match(shown.stdout, /^ {2}\/his +bob +\S+ +READY/m);
    // Without the flag it is bob, the user.
    const own = JSON.parse((await jbazel(["status", "--json"])).stdout);
    assert.deepEqual([own.user, own.sessions.map((s: { user: string }) => s.user)], ["bob", ["bob"]]);

    using operator = createRpcClient(Operator, address, { tls: tls("operator") });
    const { userId, repoHash, serverId, sessionId } = server.session!;
    assert.deepEqual((await operator.endSession({ userId, repoHash, serverId, sessionId })).ended, true);
    assert.deepEqual((await ann.listSessions({})).sessions, []);
    await running.logs(/operator "bob" ends the session ann\//);
    const { sessions } = JSON.parse((await all("--json")).stdout);
    assert.deepEqual(sessions.map((s: { user: string; workspace: string }) => [s.user, s.workspace]), [[
      "bob",
      "/his",
    ]]);

    assert.match(await admin("revoke", "--operator", "bob"), /^Operator bob is locked out/);
    const locked = await all();
    assert.equal(locked.code, 1);
    assert.match(locked.stderr, /refuses: Operator "bob" was locked out by the orchestrator's operator[^\n]*$/);
    assert.equal((await bob.listSessions({})).sessions.length, 1);
    assert.equal(await admin("revoke", "--operator", "bob", "--undo"), "Operator bob is let in again.");
    assert.equal((await all()).code, 0);
  },
});
