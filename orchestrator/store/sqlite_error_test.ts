import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import { tempDirSync } from "../../tests/support/temp_dir.ts";
import { isBusy, isUnreachable } from "./sqlite_error.ts";

function thrown(act: () => void): unknown {
  try {
    act();
  } catch (e) {
    return e;
  }
  assert.fail("it was done");
}

Deno.test("what another connection holds, what cannot be written, and what is no database are told apart", () => {
  using temp = tempDirSync();
  const open = (name: string, readOnly = false) => new DatabaseSync(temp.join(name), { readOnly });
  const holder = open("s.sqlite"), other = open("s.sqlite");
  holder.exec("CREATE TABLE t(a); BEGIN EXCLUSIVE");
  const busy = thrown(() => other.prepare("BEGIN EXCLUSIVE").run());
  assert.deepEqual([isBusy(busy), isUnreachable(busy)], [true, true]);
  holder.exec("COMMIT");
  const unwritten = thrown(() => open("s.sqlite", true).prepare("INSERT INTO t VALUES (1)").run());
  assert.deepEqual([isBusy(unwritten), isUnreachable(unwritten)], [false, true]);
  Deno.writeTextFileSync(temp.join("other"), "no database ".repeat(1000));
  const garbage = thrown(() => open("other").prepare("PRAGMA user_version").all());
  assert.deepEqual([isBusy(garbage), isUnreachable(garbage)], [false, false]);
  // The text is no code.
  assert.equal(isBusy(new Error("database is locked")), false);
});
