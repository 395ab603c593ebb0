import assert from "node:assert/strict";
import { commandEnvironment } from "./environment.ts";

Deno.test("Bazel gets the user's variables, and none of ours", () => {
  const env = {
    PATH: "/bin",
    RBS_STATE_DIR: "/s",
    DENO_DIR: "/dist/.cache",
    DENO_NO_UPDATE_CHECK: "1",
    NODE_ENV: "x",
    RBS_USER_ENV_DENO_DIR: "/mine",
    RBS_USER_ENV_NODE_OPTIONS: "--x",
  };
  assert.deepEqual(commandEnvironment(env), { PATH: "/bin", NODE_ENV: "x", DENO_DIR: "/mine", NODE_OPTIONS: "--x" });
});
