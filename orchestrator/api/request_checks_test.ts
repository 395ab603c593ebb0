import assert from "node:assert/strict";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { checkServerRequest } from "./request_checks.ts";

function request(change: Record<string, unknown> = {}) {
  const sourcePath = (change.sourcePath as string) ?? "/home/ann/ä 'b'\n\"c\"";
  return {
    userId: "ann",
    repoHash: repoHash(sourcePath),
    serverId: "",
    sessionId: "0".repeat(32),
    sourcePath,
    startupOptions: ["-jar", "x\ny"],
    region: "",
    ...change,
  };
}

Deno.test("a good request passes unchanged, whatever its path looks like", () => {
  assert.deepEqual(checkServerRequest(request()), request());
  assert.equal(checkServerRequest(request({ serverId: "0123456789abcdef" })).serverId, "0123456789abcdef");
  checkServerRequest(request({ userId: "x".repeat(128), region: "europe-west1" }));
});

for (
  const [field, change] of [
    ["user_id is empty", { userId: "" }],
    ["user_id has 129 characters", { userId: "x".repeat(129) }],
    ["user_id", { userId: "a/b" }],
    ["user_id", { userId: "a\nb" }],
    ["repo_hash", { repoHash: "" }],
    ["repo_hash", { repoHash: "A".repeat(32) }],
    ["repo_hash", { repoHash: "a".repeat(32) }],
    ["server_id", { serverId: "1" }],
    ["server_id", { serverId: "../".repeat(1000) }],
    ["server_id", { serverId: "A".repeat(16) }],
    ["session_id", { sessionId: "1" }],
    ["session_id", { sessionId: "../".repeat(1000) }],
    ["source_path", { sourcePath: "" }],
    ["source_path", { sourcePath: "a/b" }],
    ["source_path", { sourcePath: "/a\0b" }],
    ["source_path", { sourcePath: "/" + "a".repeat(4096) }],
    ["startup_options are", { startupOptions: ["x".repeat(1 << 20)] }],
    ["startup_options hold", { startupOptions: ["a\0b"] }],
    ["region", { region: "a b" }],
  ] as [string, Record<string, unknown>][]
) {
  Deno.test(`refused: ${JSON.stringify(change).slice(0, 60)}`, () => {
    assert.throws(() => checkServerRequest(request(change)), (e: unknown) => {
      assert(e instanceof RpcError);
      assert.equal(e.code, Code.INVALID_ARGUMENT);
      assert(e.message.startsWith(field), e.message);
      assert(e.message.length < 300 && !e.message.includes("\n"));
      return true;
    });
  });
}
