import assert from "node:assert/strict";
import { join } from "node:path";
import { RbsError } from "../../proto/base/errors.ts";
import { readCredentials, readValidCredentials, userOf, writeCredentials } from "../../proto/identity/key_directory.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";
import { ensureCredentials, LocalKeys, openAuthority } from "./local_keys.ts";

const ANN = { kind: "user", userId: "ann" } as const;

Deno.test("the first start makes all keys, 0600 in a 0700 directory, and the next finds them", async () => {
  using temp = tempDirSync();
  using first = await LocalKeys.open(temp.path, "ann", () => {});
  const keys = join(temp.path, "keys");
  assert.equal(Deno.statSync(keys).mode! & 0o777, 0o700);
  const names = Array.from(Deno.readDirSync(keys), ({ name }) => name).sort();
  assert.deepEqual(names, ["authority.pem", "ca.crt", "orchestrator.pem", "user.pem"]);
  for (const name of names) assert.equal(Deno.statSync(join(keys, name)).mode! & 0o777, 0o600);
  assert.equal(userOf(readValidCredentials(temp.path)), "ann");
  assert.deepEqual(first.credentials.identity, { kind: "orchestrator" });
  const texts = () => names.map((name) => Deno.readTextFileSync(join(keys, name)));
  const before = texts();
  using second = await LocalKeys.open(temp.path, "ann", () => {});
  assert.deepEqual(texts(), before);
  assert.equal(second.authority.authorities, first.authority.authorities);
});

Deno.test("many that start at once have one authority", async () => {
  using temp = tempDirSync();
  const all = await Promise.all(Array.from({ length: 8 }, () => openAuthority(temp.path)));
  assert.equal(new Set(all.map(({ authorities }) => authorities)).size, 1);
  assert.deepEqual(Array.from(Deno.readDirSync(join(temp.path, "keys")), ({ name }) => name), ["authority.pem"]);
});

Deno.test("credentials are renewed at half their life, and when they are another's or of another authority", async () => {
  using temp = tempDirSync();
  const authority = await openAuthority(temp.path);
  const hour = 3600_000;
  const write = async (lifetimeMs: number, identity: typeof ANN | { kind: "user"; userId: string } = ANN) =>
    writeCredentials(temp.path, "user", await authority.newCredentials(identity, lifetimeMs));
  const renewed = async () => {
    const before = readCredentials(temp.path).certificate;
    return (await ensureCredentials(temp.path, authority, ANN)).certificate !== before;
  };
  await write(hour);
  assert.equal(await renewed(), false);
  // It began a minute ago, so that half of it is over.
  await write(50_000);
  assert.equal(await renewed(), true);
  await write(hour, { kind: "user", userId: "bob" });
  assert.equal(await renewed(), true);
  assert.equal(userOf(readCredentials(temp.path)), "ann");
  Deno.removeSync(join(temp.path, "keys/authority.pem"));
  const other = await openAuthority(temp.path);
  assert.notEqual((await ensureCredentials(temp.path, other, ANN)).authorities, authority.authorities);
});

Deno.test("an orchestrator that runs for long renews its certificates, and says so to its servers", async () => {
  using temp = tempDirSync();
  using keys = await LocalKeys.open(temp.path, "ann", () => {});
  // It began a minute ago, so that half of it is over.
  const old = await keys.authority.newCredentials({ kind: "orchestrator" }, 50_000);
  writeCredentials(temp.path, "orchestrator", old);
  const told = Promise.withResolvers<string>();
  keys.keepFresh(({ certificate }) => told.resolve(certificate), 20);
  const certificate = await told.promise;
  assert.equal(certificate, keys.credentials.certificate);
  assert.notEqual(certificate, old.certificate);
  assert.equal(readCredentials(temp.path, "orchestrator").certificate, certificate);
});

Deno.test("keys that others can read, or that are damaged, are named", async () => {
  using temp = tempDirSync();
  {
    using _ = await LocalKeys.open(temp.path, "ann", () => {});
  }
  const file = (name: string) => join(temp.path, "keys", name);
  const fails = (run: () => unknown, pattern: RegExp) =>
    assert.throws(run, (e) => e instanceof RbsError && pattern.test(e.message) && !e.message.includes("\n"));
  Deno.chmodSync(file("user.pem"), 0o640);
  fails(() => readCredentials(temp.path), /user\.pem can be read by other users \(mode 640\)/);
  Deno.chmodSync(file("user.pem"), 0o600);
  Deno.writeTextFileSync(file("user.pem"), "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n");
  fails(() => readCredentials(temp.path), /user\.pem does not hold a private key and a certificate/);
  Deno.copyFileSync(file("orchestrator.pem"), file("user.pem"));
  fails(() => readCredentials(temp.path), /user\.pem does not hold/);
  Deno.removeSync(file("user.pem"));
  fails(() => readCredentials(temp.path), /There is no key at .*user\.pem yet: start the orchestrator/);
  Deno.chmodSync(file("authority.pem"), 0o644);
  await assert.rejects(openAuthority(temp.path), /authority\.pem can be read by other users \(mode 644\)/);
});
