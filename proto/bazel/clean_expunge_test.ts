import assert from "node:assert/strict";
import { withoutExpunge } from "./clean_expunge.ts";

Deno.test("clean --expunge becomes a plain clean, and the rest of the command line stays", () => {
  assert.deepEqual(withoutExpunge(["clean", "--isatty=0", "--expunge", "--color=yes"]), {
    args: ["clean", "--isatty=0", "--noexpunge", "--color=yes"],
    expunge: true,
  });
});

Deno.test("clean --expunge_async goes on in the background", () => {
  assert.deepEqual(withoutExpunge(["clean", "--expunge_async"]), { args: ["clean", "--async"], expunge: true });
});

Deno.test("the last of several counts, as for Bazel, and an rc file's count as well", () => {
  assert.equal(withoutExpunge(["clean", "--expunge", "--noexpunge"]).expunge, false);
  assert.equal(withoutExpunge(["clean", "--default_override=1:clean=--expunge", "--expunge=false"]).expunge, false);
  assert.deepEqual(withoutExpunge(["clean", "--default_override=1:clean=--expunge"]), {
    args: ["clean", "--default_override=1:clean=--noexpunge"],
    expunge: true,
  });
});

Deno.test("other commands are left alone", () => {
  for (const args of [[], ["clean"], ["run", "//:tool", "--", "--expunge"], ["clean", "--client_env=A=--expunge"]]) {
    assert.deepEqual(withoutExpunge(args), { args, expunge: false });
  }
});
