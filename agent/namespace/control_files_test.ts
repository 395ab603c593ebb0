import assert from "node:assert/strict";
import { join } from "node:path";
import { RbsError } from "../../proto/base/errors.ts";
import { makeControlFolder, readControlFile, writeControlFile } from "./control_files.ts";
import { Beneath } from "../files/beneath.ts";
import { JobStreams } from "./job_streams.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

/** A folder, with a file beside it that is none of its business. */
async function withFolder(run: (folder: string, other: string, files: Beneath) => Promise<void> | void) {
  using root = tempDirSync();
  Deno.writeTextFileSync(root.join("other"), "the key");
  makeControlFolder(root.join("ctl"));
  using files = Beneath.open(root.join("ctl"));
  await run(root.join("ctl"), root.join("other"), files);
  assert.equal(Deno.readTextFileSync(root.join("other")), "the key");
}

Deno.test("what is written takes the place of a symlink or a folder, and does not go where it leads", () =>
  withFolder((folder, other, files) => {
    const path = join(folder, "1.sh");
    Deno.symlinkSync(other, path);
    writeControlFile(files, "1.sh", "echo");
    assert(Deno.lstatSync(path).isFile);
    assert.equal(Deno.lstatSync(path).mode! & 0o777, 0o600);
    assert.equal(readControlFile(files, "1.sh"), "echo");
    Deno.mkdirSync(join(folder, "2.sh/deep"), { recursive: true });
    writeControlFile(files, "2.sh", "");
    assert.throws(
      () => writeControlFile(files, "none/1.sh", ""),
      (e) => e instanceof RbsError && /storage cannot be written \(.*\): make room/.test(e.message),
    );
  }));

Deno.test("nothing is read where a symlink leads, and of an endless file its beginning", () =>
  withFolder((folder, other, files) => {
    Deno.symlinkSync(other, join(folder, "1.out"));
    assert.equal(readControlFile(files, "1.out"), "");
    assert.equal(readControlFile(files, "2.out"), "");
    Deno.writeTextFileSync(join(folder, "3.out"), "x");
    Deno.truncateSync(join(folder, "3.out"), 2e9);
    assert.equal(readControlFile(files, "3.out", 1000).length, 1000);
  }));

Deno.test("a folder that a former session has replaced is made anew", () =>
  withFolder((folder, other) => {
    Deno.removeSync(folder);
    const elsewhere = `${other}.d`;
    Deno.mkdirSync(elsewhere);
    Deno.writeTextFileSync(join(elsewhere, "kept"), "");
    Deno.symlinkSync(elsewhere, folder);
    makeControlFolder(folder);
    assert(Deno.lstatSync(folder).isDirectory);
    assert.deepEqual([...Deno.readDirSync(folder)], []);
    assert(Deno.statSync(join(elsewhere, "kept")).isFile);
  }));

Deno.test("fifos are made where nothing is, and nothing else is opened in their place", () =>
  withFolder((folder, other, files) => {
    const path = join(folder, "1");
    for (const suffix of ["in", "out", "err"]) {
      Deno.symlinkSync(other, `${path}.${suffix}`);
      assert.throws(() => new JobStreams(files, 1), Deno.errors.AlreadyExists);
      assert.throws(() => files.openFifo(`1.${suffix}`, 0), Deno.errors.NotADirectory);
      Deno.removeSync(`${path}.${suffix}`);
      for (const made of ["in", "out"]) {
        try {
          Deno.removeSync(`${path}.${made}`);
        } catch { /* not that far */ }
      }
    }
    Deno.writeTextFileSync(path, "");
    assert.throws(() => files.openFifo("1", 0), /is no fifo/);
  }));

Deno.test("a job's output is carried whole, although it has ended and its fifos are removed", () =>
  withFolder(async (folder, _, files) => {
    using streams = new JobStreams(files, 1);
    const job = `exec <"$1.in" >"$1.out" 2>"$1.err"; echo said; rm -- "$1.in" "$1.out" "$1.err"; echo and gone >&2`;
    await new Deno.Command("bash", { args: ["-c", job, "bash", join(folder, "1")] }).output();
    const carrier = streams.carry();
    await carrier.stdin.close();
    const { stdout, stderr } = await carrier.output();
    assert.deepEqual([stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)), ["said\n", "and gone\n"]);
  }));
