import assert from "node:assert/strict";
import { join } from "node:path";
import { RbsError } from "../proto/errors.ts";
import { makeControlFolder, readControlFile, writeControlFile } from "./control_files.ts";
import { CARRIER } from "./execute_command_service.ts";

/** A folder, with a file beside it that is none of its business. */
async function withFolder(run: (folder: string, other: string) => Promise<void> | void) {
  const root = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "rbs-ctl-" }));
  try {
    Deno.writeTextFileSync(join(root, "other"), "the key");
    makeControlFolder(join(root, "ctl"));
    await run(join(root, "ctl"), join(root, "other"));
    assert.equal(Deno.readTextFileSync(join(root, "other")), "the key");
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
}

Deno.test("what is written takes the place of a symlink, and does not go where it leads", () =>
  withFolder((folder, other) => {
    const path = join(folder, "1.sh");
    Deno.symlinkSync(other, path);
    writeControlFile(path, "echo");
    assert(Deno.lstatSync(path).isFile);
    assert.equal(Deno.lstatSync(path).mode! & 0o777, 0o600);
    assert.equal(readControlFile(path), "echo");
    assert.throws(
      () => writeControlFile(join(folder, "none/1.sh"), ""),
      (e) => e instanceof RbsError && /storage cannot be written \(.*\): make room/.test(e.message),
    );
  }));

Deno.test("nothing is read where a symlink leads", () =>
  withFolder((folder, other) => {
    Deno.symlinkSync(other, join(folder, "1.out"));
    assert.equal(readControlFile(join(folder, "1.out")), "");
    assert.equal(readControlFile(join(folder, "2.out")), "");
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

Deno.test("output is carried from fifos, and from nothing that stands in their place", () =>
  withFolder(async (folder, other) => {
    const path = join(folder, "1");
    for (const suffix of ["in", "out", "err"]) Deno.symlinkSync(other, `${path}.${suffix}`);
    const carrier = new Deno.Command("bash", {
      args: ["-c", CARRIER, "bash", path],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const stdin = carrier.stdin.getWriter();
    await stdin.write(new TextEncoder().encode("mine now")).catch(() => {});
    await stdin.close().catch(() => {});
    const { stdout, stderr } = await carrier.output();
    assert.deepEqual([stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)), ["", ""]);
  }));

Deno.test("the output of a command that has ended, and whose fifos are removed already, is carried", () =>
  withFolder(async (folder) => {
    const path = join(folder, "1");
    const fifos = ["in", "out", "err"].map((suffix) => `${path}.${suffix}`);
    await new Deno.Command("mkfifo", { args: fifos }).output();
    // Slow to look at what it has opened.
    const slow = `readlink() { while [[ -e ${path}.out ]]; do sleep 0.01; done; command readlink "$@"; }\n`;
    const carrier = new Deno.Command("bash", {
      args: ["-c", slow + CARRIER, "bash", path],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const job = `exec <"$1.in" >"$1.out" 2>"$1.err"; echo said; rm -- "$1.in" "$1.out" "$1.err"; echo and gone >&2`;
    await new Deno.Command("bash", { args: ["-c", job, "bash", path] }).output();
    const { stdout, stderr } = await carrier.output();
    assert.deepEqual([stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)), ["said\n", "and gone\n"]);
  }));

Deno.test("no file is made where a symlink leads that stands in the place of a command's input", () =>
  withFolder(async (folder) => {
    const path = join(folder, "1"), nowhere = join(folder, "nowhere");
    Deno.symlinkSync(nowhere, `${path}.in`);
    for (const suffix of ["out", "err"]) Deno.writeTextFileSync(`${path}.${suffix}`, "");
    const { stderr } = await new Deno.Command("bash", { args: ["-c", CARRIER, "bash", path], stdin: "null" }).output();
    assert.equal(new TextDecoder().decode(stderr), "");
    assert.throws(() => Deno.lstatSync(nowhere), Deno.errors.NotFound);
  }));
