import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { Status } from "../../proto/transport/grpc/calls.ts";
import { shell } from "../namespace/shell.ts";
import { file, folder, pieces, status, Storage, TestService } from "./testing.ts";

/** A file system of a few MB. */
class SmallDisk implements AsyncDisposable {
  private constructor(readonly path: string) {}

  /** Whether this user may mount one. */
  static async mayMount(): Promise<boolean> {
    try {
      await using _disk = await SmallDisk.make(1 << 20);
      return true;
    } catch {
      return false;
    }
  }

  static async make(bytes: number): Promise<SmallDisk> {
    const path = await Deno.makeTempDir({ prefix: "rbs-test-" });
    const { code } = await shell(`mount -t tmpfs -o size="$2" rbs-test "$1"`, [path, String(bytes)]);
    if (code === 0) return new SmallDisk(path);
    await Deno.remove(path);
    throw new Error(`no small disk can be mounted at ${path}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await shell(`umount "$1" && rmdir "$1"`, [this.path]);
  }
}

// Only root may mount a disk that is small enough to be filled, and not in every container.
const ignore = !await SmallDisk.mayMount();

Deno.test("a full disk is named as such, and nothing half-written is in place", { ignore }, async () => {
  await using disk = await SmallDisk.make(24 << 20);
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
