import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { HomeHints } from "./home_hints.ts";

Deno.test("each sentence is said once, at the first report, also of one that comes in parts", () => {
  const hints = new HomeHints();
  const read = (text: string, command = "a") => hints.read(command, Buffer.from(text));
  assert.equal(read("java.io.IOException: GET retur"), "");
  assert.equal(read("not of this command: ned 401", "b"), "");
  assert.match(read("ned 401"), /^rbs: .*RBS_HOME_FILES=\.netrc.*\n$/);
  assert.equal(read("GET returned 401 Unauthorized", "b"), "");
  assert.match(read("fatal: not a git repository (or any of the parent directories): .git"), /`!\.git`/);
  assert.equal(read("fatal: not a git repository"), "");
});

Deno.test("what a warning has told already is not told again", () => {
  const hints = new HomeHints();
  hints.said(
    "rbs: warning: --workspace_status_command=x runs git …: write `!.git` into .rbsignore to have it synced.\n",
  );
  assert.equal(hints.read("a", Buffer.from("fatal: not a git repository")), "");
  assert.match(hints.read("a", Buffer.from("401 Unauthorized")), /RBS_HOME_FILES/);
});

Deno.test("a command that has ended leaves nothing to the next", () => {
  const hints = new HomeHints();
  hints.read("a", Buffer.from("returned "));
  hints.forget("a");
  assert.equal(hints.read("a", Buffer.from("401")), "");
});
