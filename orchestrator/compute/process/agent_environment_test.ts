import assert from "node:assert/strict";
import { agentEnvironment, defaultOutputBase } from "./agent_environment.ts";

Deno.test("an agent inherits what is listed and nothing else, and is told where to listen", () => {
  const host = { HOME: "/h", SECRET: "x", AWS_SECRET_ACCESS_KEY: "x", RBS_STATE_DIR: "/s", RBS_BAZEL: "/b", LANG: "C" };
  assert.deepEqual(agentEnvironment(host), { HOME: "/h", RBS_BAZEL: "/b", LANG: "C" });
  assert.deepEqual(agentEnvironment({}, { listenAddress: "192.0.2.1", allowRootSessions: true }), {
    RBS_AGENT_HOST: "192.0.2.1",
    RBS_ALLOW_ROOT_SESSIONS: "1",
  });
});

Deno.test("an output base that no client names is where its Bazel would have it", () => {
  assert.equal(defaultOutputBase("beef", { HOME: "/h", USER: "ann" }), "/h/.cache/bazel/_bazel_ann/beef");
  assert.equal(defaultOutputBase("beef", { HOME: "/h", XDG_CACHE_HOME: "/c" }), "/c/bazel/_bazel_unknown/beef");
});
