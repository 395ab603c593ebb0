import assert from "node:assert/strict";
import { Looks } from "./stat_snapshot.ts";
import { localFiles } from "./local_files.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

const LONG_AGO = new Date(2020, 1);

/** A folder with a file, a symlink and a folder, as if it had been made when `since` was yet to come. */
async function withFiles(test: (at: (name: string) => string, since: number) => void) {
  await using folder = await tempDir();
  const at = folder.join;
  Deno.writeTextFileSync(at("file"), "one");
  Deno.utimeSync(at("file"), LONG_AGO, LONG_AGO);
  Deno.symlinkSync("file", at("link"));
  Deno.mkdirSync(at("folder"));
  test(at, Date.now() + 2_000);
}

Deno.test("looks: the same as long as nothing happens", () =>
  withFiles((at, since) => {
    const looks = new Looks(localFiles, 10, since);
    for (const name of ["file", "link", "folder"]) assert.ok(looks.look(at(name)));
    assert.equal(looks.look(at("missing")), undefined);
    looks.list(at("folder"));
    assert.ok(looks.same);
    assert.ok(looks.same);
  }));

Deno.test("looks: whatever happens is seen", () =>
  withFiles((at, since) => {
    const seen = (change: () => void) => {
      const looks = new Looks(localFiles, 10, since);
      for (const name of ["file", "link", "missing"]) looks.look(at(name));
      looks.list(at("folder"));
      assert.ok(looks.same);
      change();
      return !looks.same;
    };
    assert.ok(
      seen(() => {
        Deno.writeTextFileSync(at("file"), "two");
      }),
      "a content of the same length",
    );
    assert.ok(seen(() => Deno.chmodSync(at("file"), 0o600)), "a mode");
    assert.ok(
      seen(() => {
        Deno.renameSync(at("file"), at("other"));
        Deno.copyFileSync(at("other"), at("file"));
        Deno.utimeSync(at("file"), LONG_AGO, LONG_AGO);
      }),
      "another file that looks the same",
    );
    assert.ok(seen(() => Deno.writeTextFileSync(at("missing"), "")), "a file that was missing");
    assert.ok(seen(() => Deno.removeSync(at("missing"))), "a file that went");
    assert.ok(
      seen(() => {
        Deno.removeSync(at("link"));
        Deno.symlinkSync("other", at("link"));
      }),
      "another link",
    );
    assert.ok(seen(() => Deno.mkdirSync(at("folder/new"))), "a name in a folder that was listed");
  }));

Deno.test("looks: of a folder that was not listed only counts that it is the same one", () =>
  withFiles((at, since) => {
    const looks = new Looks(localFiles, 10, since);
    looks.look(at("folder"));
    Deno.mkdirSync(at("folder/new"));
    assert.ok(looks.same);
    Deno.renameSync(at("folder"), at("moved"));
    Deno.mkdirSync(at("folder"));
    assert.ok(!looks.same);
  }));

Deno.test("looks: what was changed a moment ago, and more paths than the limit, cannot be relied on", () =>
  withFiles((at, since) => {
    const fresh = new Looks(localFiles, 10);
    fresh.look(at("file"));
    assert.ok(!fresh.steady);
    assert.ok(!fresh.same);
    const many = new Looks(localFiles, 2, since);
    for (const name of ["file", "link", "missing"]) many.look(at(name));
    assert.ok(!many.same);
  }));
