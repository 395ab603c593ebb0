import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { archiveKey, type ServerStart, withoutWrites } from "./archive_key.ts";

/** A JDK and an install base that go with the scope. */
async function machine(release = `JAVA_VERSION="17.0.15"\n`) {
  const root = await Deno.makeTempDir({ prefix: "rbs-agent-test-" });
  const write = async (name: string, text = "") => {
    await Deno.mkdir(dirname(join(root, name)), { recursive: true });
    await Deno.writeTextFile(join(root, name), text);
  };
  await write("jdk/release", release);
  for (const name of ["bin/java", "lib/modules", "lib/server/libjvm.so", "conf/net.properties"]) {
    await write(`jdk/${name}`);
  }
  await write("base/A-server.jar");
  await write("base/embedded_tools/tools/BUILD");
  const start = (options: readonly string[] = [], more: Partial<ServerStart> = {}): ServerStart => ({
    java: join(root, "jdk/bin/java"),
    installBase: join(root, "base"),
    argv: [...options, "-jar", join(root, "base/A-server.jar"), "--output_base=/ob", "--max_idle_secs=5"],
    ...more,
  });
  // As if a while had passed.
  const key = (...args: Parameters<typeof start>) => archiveKey(start(...args), () => Date.now() + 60_000);
  return { root, write, start, key, [Symbol.asyncDispose]: () => Deno.remove(root, { recursive: true }) };
}

/** Deno knows the time of a change in whole seconds. */
const nextSecond = () => new Promise((resolve) => setTimeout(resolve, 1_100));

Deno.test("the key is the same for servers to which the same archive fits", async () => {
  await using it = await machine();
  const key = it.key(["-Xverify:none"]);
  assert.match(key!, /^[0-9a-f]{32}$/);
  assert.equal(it.key(["-Xverify:none"]), key);
  assert.equal(it.key(["-Xverify:none", "-Dx=y", "-XX:HeapDumpPath=/ob", "-Xlog:gc:file=/tmp/gc"]), key);
  const { argv } = it.start(["-Xverify:none"]);
  assert.equal(it.key([], { argv: [...argv, "--output_base=/another"] }), key, "the server's own options");
  for (const options of [[], ["-Xverify:none", "-Xmx4g"], ["-Xverify:none", "-XX:+UseSerialGC"]]) {
    assert.notEqual(it.key(options), key, options.join(" "));
  }
});

Deno.test("each file of an install base and of a JDK counts, also one that looks as before", async () => {
  await using it = await machine();
  let key = it.key();
  for (
    const name of ["base/A-server.jar", "base/embedded_tools/tools/BUILD", "jdk/lib/modules", "jdk/conf/net.properties"]
  ) {
    const { atime, mtime } = await Deno.stat(join(it.root, name));
    await nextSecond();
    await it.write(name);
    await Deno.utime(join(it.root, name), atime!, mtime!);
    const next = it.key();
    assert.notEqual(next, key, name);
    key = next;
  }
  await it.write("jdk/lib/libmore.so");
  assert.notEqual(it.key(), key, "a file more");
});

Deno.test("each jar of a class path counts, and one that is not there does not", async () => {
  await using it = await machine();
  const jar = join(it.root, "base/A-server.jar");
  const key = (...more: string[]) => it.key([], { argv: ["-cp", [jar, ...more].join(":"), "Main"] });
  assert.equal(key("/no/such.jar"), key());
  await it.write("more.jar");
  assert.notEqual(key(join(it.root, "more.jar")), key());
});

Deno.test("files that have just been changed have no key", async () => {
  await using it = await machine();
  assert.equal(archiveKey(it.start()), undefined);
});

Deno.test("a JDK that makes no archives has no key, and neither has one that is none", async () => {
  for (const release of [`JAVA_VERSION="1.8.0_392"\n`, `JAVA_VERSION="11.0.2"\n`, `JAVA_VERSION="12"\n`, ""]) {
    await using it = await machine(release);
    assert.equal(it.key(), undefined, release);
  }
  await using other = await machine(`JVM_VARIANT="Openj9"\nJAVA_VERSION="17.0.1"\n`);
  assert.equal(other.key(), undefined);
  for (const release of [`JAVA_VERSION="13"\n`, `JAVA_VERSION="25.0.1"\nJVM_VARIANT="Hotspot"\n`]) {
    await using it = await machine(release);
    assert(it.key(), release);
  }
  await using it = await machine();
  assert.equal(it.key([], { java: "/no/such/bin/java" }), undefined);
  await Deno.remove(join(it.root, "jdk/release"));
  assert.equal(it.key(), undefined);
});

Deno.test("who says something about archives, or brings code along, is left alone", async () => {
  await using it = await machine();
  const options = [
    ..."-Xshare:off -Xshare:auto -XX:SharedArchiveFile=/a.jsa -XX:-UseSharedSpaces -XX:+AutoCreateSharedArchive".split(
      " ",
    ),
    ..."-XX:AOTCache=/a -XX:AOTMode=off -javaagent:/a.jar -agentlib:jdwp".split(
      " ",
    ),
    ..."-agentpath:/a.so -Xbootclasspath/a:/a.jar --patch-module=java.base=/a --limit-modules=java.base @/args".split(
      " ",
    ),
    ..."-XX:Flags=/flags -XX:VMOptionsFile=/flags --upgrade-module-path=/a --module-path=/a -p".split(" "),
  ];
  for (const option of options) assert.equal(it.key([option]), undefined, option);
  assert(it.key(["-XX:HeapDumpPath=/home/SharedArchive", "--add-opens=java.base/java.nio=ALL-UNNAMED"]));
});

Deno.test("options that write files are left out for the maker, and only those of the JVM", async () => {
  await using it = await machine();
  const { argv } = it.start(["-Xmx1g", "-Dx=y", "-XX:HeapDumpPath=/ob", "-Xlog:gc:file=/gc"]);
  assert.deepEqual(withoutWrites([...argv, "-Xlog:x"]), [
    ...["-Xmx1g", "-Dx=y", "-jar", join(it.root, "base/A-server.jar"), "--output_base=/ob", "--max_idle_secs=5"],
    "-Xlog:x",
  ]);
});
