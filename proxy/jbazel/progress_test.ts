// deno-lint-ignore-file no-control-regex
import assert from "node:assert/strict";
import { Progress } from "./progress.ts";

/** What a progress of two steps writes, until `enough` has been written. */
async function watch(columns: number | undefined, enough: RegExp): Promise<string> {
  let written = "";
  const done = Promise.withResolvers<void>();
  const write = (text: string) => {
    written += text;
    if (enough.test(written)) done.resolve();
  };
  {
    using progress = new Progress({ write, columns: () => columns }, "waiting", 10);
    progress.step("agent starting\n(pod \x1b[2Jscheduled)");
    await done.promise;
  }
  return written;
}

Deno.test("on a terminal the line is redrawn in place, and erased in the end", async () => {
  const written = await watch(80, /(scheduled.*){3}/s);
  assert.match(written, /^(\r\x1b\[Krbs: agent starting \(pod {2}\[2Jscheduled\) \d\.\ds)+\r\x1b\[K$/);
});

Deno.test("a line never wraps", async () => {
  assert.match(await watch(20, /agent/), /^(\r\x1b\[K.{19})+\r\x1b\[K$/);
});

Deno.test("elsewhere each step is written once", async () => {
  assert.match(await watch(undefined, /\n/), /^rbs: agent starting \(pod {2}\[2Jscheduled\) \d\.\ds\n$/);
});

Deno.test("who does not wait sees nothing", () => {
  let written = "";
  {
    using progress = new Progress({ write: (text) => void (written += text), columns: () => 80 }, "waiting", 1000);
    progress.step("agent starting");
  }
  assert.equal(written, "");
});
