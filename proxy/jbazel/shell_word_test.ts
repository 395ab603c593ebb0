import assert from "node:assert/strict";
import { output } from "../../tests/support/run.ts";
import { UNSEEN } from "./progress.ts";
import { shellWord } from "./shell_word.ts";

Deno.test("a shell reads each word as it was, and no word steers the terminal that shows it", async () => {
  const words = [
    "plain",
    "two words",
    "it's",
    '$(x) `y` \\ "',
    "a\x1b]0;owned\x07'\\b\n",
    "left\u202eright\u2066",
    "ä\u009b",
  ];
  const printed = await output(["bash", "-c", `printf '%s\\0' ${words.map(shellWord).join(" ")}`], {
    env: { LC_ALL: "C.UTF-8" },
  });
  assert.deepEqual(printed.split("\0").slice(0, -1), words);
  assert.doesNotMatch(words.map(shellWord).join(" "), new RegExp(UNSEEN.source));
});
