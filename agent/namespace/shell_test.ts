import assert from "node:assert/strict";
import { quote, quoteAll, shell } from "./shell.ts";

Deno.test("any text is one word for bash", async () => {
  const words = ["", "a b", "it's", `"$HOME"`, "a\nb\n", "-n", "ü€😀", "`id`", "\\", "'; exit 1; '"];
  const { stdout } = await shell(`printf '%s\\0' ${quoteAll(words)}`);
  assert.deepEqual(stdout.split("\0").slice(0, -1), words);
});

Deno.test("a NUL is refused", () => assert.throws(() => quote("a\0b"), /NUL/));
