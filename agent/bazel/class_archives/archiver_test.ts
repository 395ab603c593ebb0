import assert from "node:assert/strict";
import { basename, join } from "node:path";
import { Archiver, type ArchiverOptions } from "./archiver.ts";
import { ClassArchives } from "./class_archives.ts";

const KEY = "a".repeat(32);
const START = { java: "/jdk/bin/java", installBase: "/base", argv: ["-jar", "/base/A-server.jar"] };
const IDLE_MS = 5;

/** The commands of a session, for a test to begin and end. */
class Commands {
  running = 0;
  begun = 0;
  readonly #listeners = new Set<() => void>();

  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  begin(): void {
    this.begun++;
    this.#change(1);
  }

  end(): void {
    this.#change(-1);
  }

  #change(by: number): void {
    this.running += by;
    for (const listener of this.#listeners) listener();
  }
}

/** An archiver whose attempts a test watches, and lets end. */
async function rig(options: Partial<ArchiverOptions> = {}) {
  const root = await Deno.makeTempDir({ prefix: "rbs-agent-test-" });
  const archives = new ClassArchives({ directory: join(root, ".classes"), max: 2 });
  archives.prepare();
  const activity = new Commands();
  const attempts: { signal: AbortSignal; succeed(): void; fail(error: Error): void }[] = [];
  const archiver = new Archiver({
    archives,
    activity,
    key: () => KEY,
    idleMs: IDLE_MS,
    make(_start, signal) {
      const { promise, resolve, reject } = Promise.withResolvers<string>();
      signal.addEventListener("abort", () => reject(signal.reason));
      const made = join(archives.making, "made");
      Deno.writeTextFileSync(made, "classes");
      attempts.push({ signal, succeed: () => resolve(made), fail: reject });
      return promise;
    },
    ...options,
  });
  return {
    ...{ archives, activity, attempts, archiver },
    /** The attempt of a number, as soon as it has begun. */
    async attempt(number: number) {
      // The archiver's own timer keeps no program alive.
      while (attempts.length < number) await new Promise((resolve) => setTimeout(resolve, 1));
      return attempts[number - 1];
    },
    async [Symbol.asyncDispose]() {
      await archiver.close();
      await Deno.remove(root, { recursive: true });
    },
  };
}

const aWhile = () => new Promise((resolve) => setTimeout(resolve, 10 * IDLE_MS));

Deno.test("an archive is made once a command has ended, and then servers get it", async () => {
  await using it = await rig();
  assert.deepEqual(it.archiver.jvmOptions(START), []);
  await aWhile();
  assert.equal(it.attempts.length, 0, "nobody has done anything yet");
  it.activity.begin();
  await aWhile();
  assert.equal(it.attempts.length, 0, "somebody waits");
  it.activity.end();
  (await it.attempt(1)).succeed();
  await it.archiver.close();
  assert.deepEqual(it.archiver.jvmOptions(START), [
    `-XX:SharedArchiveFile=${it.archives.kept}/${KEY}.jsa`,
    "-Xlog:cds*=off",
  ]);
});

Deno.test("a command ends the making, which is tried again after a longer while", async () => {
  await using it = await rig();
  it.archiver.jvmOptions(START);
  it.activity.begin();
  it.activity.end();
  const first = await it.attempt(1);
  it.activity.begin();
  assert(first.signal.aborted);
  await aWhile();
  assert.equal(it.attempts.length, 1);
  await assert.rejects(Deno.stat(it.archives.making), Deno.errors.NotFound);
  it.activity.end();
  (await it.attempt(2)).succeed();
  await it.archiver.close();
  assert(it.archives.find(KEY));
});

Deno.test("one that cannot be made is not tried again", async () => {
  await using it = await rig();
  it.archiver.jvmOptions(START);
  it.activity.begin();
  it.activity.end();
  (await it.attempt(1)).fail(new Error("no room"));
  await aWhile();
  it.activity.begin();
  it.activity.end();
  assert.deepEqual(it.archiver.jvmOptions(START), []);
  await aWhile();
  assert.equal(it.attempts.length, 1);
});

Deno.test("one whose server's files were changed meanwhile is thrown away", async () => {
  let key = KEY;
  await using it = await rig({ key: () => key });
  it.archiver.jvmOptions(START);
  it.activity.begin();
  it.activity.end();
  const attempt = await it.attempt(1);
  key = "b".repeat(32);
  attempt.succeed();
  await it.archiver.close();
  assert.equal(it.archives.find(KEY), undefined);
  assert.equal(it.archives.find(key), undefined);
});

Deno.test("while another agent makes one, this one waits, and takes it", async () => {
  await using it = await rig();
  {
    using _turn = await it.archives.begin();
    it.archiver.jvmOptions(START);
    it.activity.begin();
    it.activity.end();
    await aWhile();
    assert.equal(it.attempts.length, 0);
    const made = join(it.archives.making, "made");
    await Deno.writeTextFile(made, "classes");
    it.archives.keep(KEY, made);
  }
  await aWhile();
  assert.equal(it.attempts.length, 0);
  assert.equal(it.archiver.jvmOptions(START).length, 2);
});

Deno.test("a server to which no archive fits is left alone", async () => {
  await using it = await rig({ key: () => undefined });
  assert.deepEqual(it.archiver.jvmOptions(START), []);
  it.activity.begin();
  it.activity.end();
  await aWhile();
  assert.equal(it.attempts.length, 0);
});

Deno.test("an archiver that is closed ends what it makes", async () => {
  await using it = await rig();
  it.archiver.jvmOptions(START);
  it.activity.begin();
  it.activity.end();
  const { signal } = await it.attempt(1);
  await it.archiver.close();
  assert(signal.aborted);
  assert.deepEqual(Array.from(Deno.readDirSync(it.archives.kept)), []);
});

Deno.test("a server that wants none and is started before the wait is over leaves nothing to make", async () => {
  let key: string | undefined = KEY;
  await using it = await rig({ key: () => key });
  it.archiver.jvmOptions(START);
  it.activity.begin();
  it.activity.end();
  key = undefined;
  it.archiver.jvmOptions(START);
  // Without a rejection that nobody handles.
  await aWhile();
  assert.equal(it.attempts.length, 0);
});

Deno.test("a server is told of an archive by its own session's path", async () => {
  await using it = await rig({ seenAs: (path) => `/seen/${basename(path)}` });
  using _turn = await it.archives.begin();
  const made = join(it.archives.making, "made");
  Deno.writeTextFileSync(made, "classes");
  it.archives.keep(KEY, made);
  assert.equal(it.archiver.jvmOptions(START)[0], `-XX:SharedArchiveFile=/seen/${KEY}.jsa`);
});
