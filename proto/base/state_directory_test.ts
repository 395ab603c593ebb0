import assert from "node:assert/strict";
import { bearer, randomToken, sameSecret } from "./state_directory.ts";

/** Evaluates an expression of this module in a process with just these variables. */
async function evaluate(expression: string, env: Record<string, string>): Promise<unknown> {
  const module = JSON.stringify(new URL("./state_directory.ts", import.meta.url).href);
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      `import * as s from ${module};
      try { console.log(JSON.stringify(${expression})) } catch (e) { console.log(JSON.stringify(e.message)) }`,
    ],
    env: { ...env, DENO_DIR: Deno.env.get("DENO_DIR") ?? `${Deno.env.get("HOME")}/.cache/deno`, NO_COLOR: "1" },
    clearEnv: true,
  }).output();
  return JSON.parse(new TextDecoder().decode(stdout));
}

Deno.test("the state directory comes from RBS_STATE_DIR, XDG_STATE_HOME or HOME, in this order", async () => {
  const directory = (env: Record<string, string>) => evaluate("s.stateDirectory()", env);
  assert.equal(await directory({ RBS_STATE_DIR: "/r", XDG_STATE_HOME: "/x", HOME: "/h" }), "/r");
  assert.equal(await directory({ XDG_STATE_HOME: "/x", HOME: "/h" }), "/x/rbs");
  assert.equal(await directory({ HOME: "/h" }), "/h/.local/state/rbs");
  assert.match(String(await directory({ RBS_STATE_DIR: "r" })), /must be an absolute path/);
  assert.match(String(await directory({})), /RBS_STATE_DIR/);
});

Deno.test("the local user is the system's name of the user", async () => {
  const user = (env: Record<string, string>) => evaluate("s.localUserId()", env);
  assert.equal(await user({ USER: "b", LOGNAME: "c" }), "b");
  assert.equal(await user({}), `uid-${Deno.uid()}`);
});

Deno.test("secrets are equal only to themselves", () => {
  assert.equal(sameSecret("a", "a"), true);
  for (const other of ["b", "aa", "", undefined]) assert.equal(sameSecret("a", other), false);
  assert.notEqual(randomToken(), randomToken());
});

Deno.test("a bearer's token is what follows the word", () => {
  assert.equal(bearer("Bearer abc"), "abc");
  assert.equal(bearer("bearer abc"), "abc");
  for (const other of [undefined, "", "Bearer", "Bearer ", "Basic abc", "Bearer a b"]) {
    assert.equal(bearer(other), undefined);
  }
});
