import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { Status } from "../../proto/relay/calls.ts";
import { shell } from "../shell.ts";
import { file, folder, pieces, status, Storage, TestService } from "./testing.ts";

/** A file system of a few MB. */
class SmallDisk implements AsyncDisposable {
  private constructor(readonly path: string) {}

  /** Undefined if this user may not mount one. */
  static async make(bytes: number): Promise<SmallDisk | undefined> {
    const path = await Deno.makeTempDir({ prefix: "rbs-test-" });
    const { code } = await shell(`mount -t tmpfs -o size="$2" rbs-test "$1"`, [path, String(bytes)]);
    if (code === 0) return new SmallDisk(path);
    await Deno.remove(path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await shell(`umount "$1" && rmdir "$1"`, [this.path]);
  }
}

Deno.test("a full disk is named as such, and nothing half-written is in place", async () => {
  await using disk = await SmallDisk.make(24 << 20);
  if (!disk) return console.log("This user may not mount a small disk: not tested.");
  using storage = new Storage(disk.path);
  using agent = new TestService(storage);
  const full = status(Status.RESOURCE_EXHAUSTED, /^The disk of .* is full: make room there\.$/);
  await agent.change([folder("d"), file("d/before", "1"), ...pieces("ballast", randomBytes(10 << 20))]);

  await assert.rejects(agent.change([file("d/before", "2"), ...pieces("large", randomBytes(15 << 20))]), full);
  await assert.rejects(agent.change(pieces("resumable", randomBytes(20 << 20))), full);
  const many = Array.from({ length: 20 }, (_, i) => file(`d/f${i}`, randomBytes(1 << 19)));
  for (let i = 0; i < 3; i++) await agent.change(many.slice(i * 3, i * 3 + 3)).catch(() => {});
  await assert.rejects(agent.change([...many, ...pieces("d/last", randomBytes(15 << 20))]), full);
  const { manifests: [{ entries }] } = await agent.open("/home/ann/ws");
  const listed = new Map(entries.map((entry) => [entry.path, entry]));
  assert.equal(listed.get("d/before")!.size, 1);
  assert.equal(listed.get("ballast")!.size, 10 << 20);
  for (const gone of ["large", "resumable", "d/last"]) assert.ok(!listed.has(gone));
  for (const { entry } of many) {
    const there = listed.get(entry!.path);
    if (there) assert.deepEqual(there.digest, entry!.digest);
  }
  agent.workspace.save();

  // Once there is room again, all goes on.
  await agent.change([{ remove: "ballast" }, ...many.map(({ entry }) => ({ remove: entry!.path }))]);
  await agent.change([file("d/after", "3"), ...pieces("large", randomBytes(15 << 20))]);
  assert.ok((await agent.list()).length >= 3);
});
