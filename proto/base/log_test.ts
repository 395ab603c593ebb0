import assert from "node:assert/strict";
import { trace } from "./log.ts";

/** What a program logs on its standard error, and what it ends with. */
async function logged(program: string, redirection = ""): Promise<{ code: number; stderr: string }> {
  const script = `import { log } from ${JSON.stringify(import.meta.resolve("./log.ts"))}; ${program}`;
  const { code, stderr } = await new Deno.Command("bash", {
    args: ["-c", `exec "$0" eval --quiet "$1" ${redirection}`, Deno.execPath(), script],
    env: { NO_COLOR: "1" },
  }).output();
  return { code, stderr: new TextDecoder().decode(stderr) };
}

Deno.test("each message is one line with its time, whatever it holds", async () => {
  const { code, stderr } = await logged(`log("one\\n2026-01-01T00:00:00.000Z forged\\n"); log("two");`);
  assert.equal(code, 0);
  assert.match(stderr, /^\S+Z one\\n2026-01-01T00:00:00\.000Z forged\n\S+Z two\n$/);
});

Deno.test("a log that cannot be written stops nothing", async () => {
  assert.deepEqual(await logged(`Deno.exit(log("lost") === 0 ? 7 : 1);`, "2>/dev/full"), { code: 7, stderr: "" });
});

Deno.test("a trace has where it was thrown and its causes, and ends also where these go round", () => {
  const cause = new RangeError("inner"), error = new Error("outer", { cause });
  assert.match(trace(error), /^Error: outer\n +at .*log_test\.ts[^]*\ncaused by RangeError: inner\n +at /);
  cause.cause = error;
  assert.match(trace(error), /outer/);
  assert.equal(trace("thrown"), "thrown");
});
