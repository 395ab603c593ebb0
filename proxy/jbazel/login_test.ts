import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { RbsError } from "../../proto/base/errors.ts";
import { fingerprint } from "../../proto/enrolment/discovery.ts";
import { type Invitation, readInvitation, writeInvitation } from "../../proto/enrolment/invitation.ts";
import {
  authoritiesFile,
  operatorOf,
  readCredentials,
  readValidCredentials,
  userOf,
  writeCredentials,
} from "../../proto/identity/key_directory.ts";
import type { Identity } from "../../proto/identity/spiffe.ts";
import { renewIfDue } from "../../proto/enrolment/renewal.ts";
import { TestAuthority, TRUST_DOMAIN } from "../../proto/testing/certificates.ts";
import { TestIssuer } from "../../proto/testing/issuer.ts";
import { giveUserKeys, testAuthority } from "../../proto/testing/keys.ts";
import { TestPlace } from "./fake_services.ts";
import { runLogin } from "./login.ts";

const ADA = { kind: "user", userId: "ada" } as const;
const fingerprintOf = (authority: TestAuthority) => fingerprint(new X509Certificate(authority.certificate).raw);

function test(promise: string, fn: () => Promise<void>): void {
  // gRPC's channels close a moment after they are told to.
  Deno.test({ name: promise, fn, sanitizeOps: false, sanitizeResources: false });
}

/** A place and an issuer of ada's certificates, and a way to log in there. */
async function start(change: Partial<Invitation> = {}, holder: Identity = ADA) {
  const stack = new AsyncDisposableStack();
  const place = stack.use(new TestPlace());
  const issuer = stack.use(await TestIssuer.start(holder, { names: [] }));
  const said: string[] = [];
  const invitation = writeInvitation({
    address: issuer.address,
    fingerprint: fingerprintOf(await testAuthority()),
    trustDomain: TRUST_DOMAIN,
    token: "secret-token",
    ...change,
  });
  return {
    place,
    issuer,
    said,
    login: (word: string | undefined = invitation) =>
      runLogin({
        stateDirectory: place.stateDirectory,
        readToken: () => Promise.resolve(word && `${word}\n`),
        say: (line) => void said.push(line),
      }),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const refused = (promise: Promise<unknown>, pattern: RegExp) =>
  assert.rejects(promise, (e) => {
    assert(e instanceof RbsError, String(e));
    assert.match(e.message, pattern);
    assert(!e.message.includes("secret-token") && !e.message.includes("\n"));
    return true;
  });

test("login makes a key here, has it certified, and says who one is", async () => {
  await using t = await start();
  assert.equal(await t.login(), 0);
  assert.match(t.said[0], /^You are ada to the orchestrator at 127\.0\.0\.1:\d+, until 20\d\d-/);
  assert.match(t.said[1], /user\.pem\. Set RBS_ORCHESTRATOR_ADDR=127\.0\.0\.1:\d+\.$/);
  assert.equal(userOf(readValidCredentials(t.place.stateDirectory)), "ada");
  assert.deepEqual(
    new X509Certificate(Deno.readTextFileSync(authoritiesFile(t.place.stateDirectory))).raw,
    new X509Certificate((await testAuthority()).certificate).raw,
  );
  for (const name of ["user.pem", "ca.crt"]) {
    assert.equal(Deno.statSync(`${t.place.stateDirectory}/keys/${name}`).mode! & 0o777, 0o600);
  }
  assert.equal(Deno.statSync(`${t.place.stateDirectory}/keys`).mode! & 0o777, 0o700);
  await refused(t.login(), /the token was used/);
});

test("who is not the orchestrator of the token is told nothing", async () => {
  await using t = await start({ fingerprint: fingerprintOf(await TestAuthority.make()) });
  await refused(t.login(), /is not the orchestrator that issued the token/);
  await using other = await start({ address: "127.0.0.1:1" });
  await refused(other.login(), /cannot be asked for its certificate: /);
  for (const place of [t.place, other.place]) assert.throws(() => readCredentials(place.stateDirectory), /no key at/);
  // It was shown to nobody, so it is good still.
  await using third = await start();
  assert.equal(await third.login(), 0);
});

const OPS = { kind: "operator", name: "ops" } as const;

test("an operator's key lies beside the user's, and neither takes the other's place", async () => {
  await using t = await start({ operator: true }, OPS);
  await giveUserKeys(t.place.stateDirectory, "ada");
  const user = readCredentials(t.place.stateDirectory);
  assert.equal(await t.login(), 0);
  assert.match(t.said[0], /^You are operator ops to the orchestrator at .*; `jbazel status --all-users` renews that/);
  assert.match(t.said[1], /operator\.pem\. Set RBS_ORCHESTRATOR_ADDR/);
  assert.equal(operatorOf(readValidCredentials(t.place.stateDirectory, "operator")), "ops");
  assert.deepEqual(readCredentials(t.place.stateDirectory).certificate, user.certificate);
});

test("login takes an operator's certificate only for an operator's token, and a user's only for a user's", async () => {
  for (const [operator, holder] of [[true, ADA], [false, OPS]] as const) {
    await using t = await start({ operator }, holder);
    await giveUserKeys(t.place.stateDirectory, "ada");
    const before = readCredentials(t.place.stateDirectory).certificate;
    await refused(t.login(), /^login: the orchestrator has certified something else than the token says/);
    assert.equal(readCredentials(t.place.stateDirectory).certificate, before);
    assert.throws(() => readCredentials(t.place.stateDirectory, "operator"), /no key at/);
  }
});

test("an operator's key is not put where a user trusts another authority, and the token stays good", async () => {
  await using t = await start({ operator: true }, OPS);
  await giveUserKeys(t.place.stateDirectory, "ada", {}, await TestAuthority.make());
  await refused(t.login(), /^login: the user's key in .* is for another orchestrator, .* --state-dir\.$/);
  Deno.removeSync(`${t.place.stateDirectory}/keys`, { recursive: true });
  assert.equal(await t.login(), 0);
});

test("what is no token is refused", async () => {
  await using t = await start();
  for (const nothing of ["", " \n"]) await refused(t.login(nothing), /^login: no token was given: ask /);
  for (const word of ["secret-token", "rbs1.", "rbs1.WzFd", "rbs1.bm90IGpzb24", `rbs1.${"A".repeat(5000)}`]) {
    await refused(t.login(word), /^login: that is not a token/);
  }
  const good = { address: "[::1]:5", fingerprint: "a".repeat(64), trustDomain: "x.y", token: "t" };
  assert.deepEqual(readInvitation(writeInvitation(good)), good);
  assert.deepEqual(readInvitation(writeInvitation({ ...good, operator: true })), { ...good, operator: true });
  for (const more of [["user"], ["operator", "x"], [""]]) {
    const parts = [good.address, good.fingerprint, good.trustDomain, good.token, ...more];
    assert.equal(readInvitation(`rbs1.${btoa(JSON.stringify(parts)).replace(/=+$/, "")}`), undefined);
  }
  for (const bad of [{ address: "a b:1" }, { fingerprint: "A" }, { trustDomain: "/" }, { token: "" }]) {
    assert.equal(readInvitation(writeInvitation({ ...good, ...bad })), undefined);
  }
});

test("an operator's certificate is renewed as an operator's, beside the user's", async () => {
  await using t = await start({ operator: true }, OPS);
  await giveUserKeys(t.place.stateDirectory, "ada");
  const user = readCredentials(t.place.stateDirectory).certificate;
  const now = Date.now();
  const times = { names: [], notBefore: new Date(now - 3_600_000), notAfter: new Date(now + 3_500_000) };
  writeCredentials(t.place.stateDirectory, "operator", await (await testAuthority()).identify(OPS, times));
  const old = readCredentials(t.place.stateDirectory, "operator").certificate;
  assert.equal(await renewIfDue(t.place.stateDirectory, t.issuer.address, "operator"), true);
  assert.equal(operatorOf(readValidCredentials(t.place.stateDirectory, "operator")), "ops");
  assert.notEqual(readCredentials(t.place.stateDirectory, "operator").certificate, old);
  assert.equal(readCredentials(t.place.stateDirectory).certificate, user);
});

test("a certificate is renewed at half its life, and not before", async () => {
  await using t = await start();
  await giveUserKeys(t.place.stateDirectory, "ada");
  const keys = () => readCredentials(t.place.stateDirectory).certificate;
  const first = keys();
  assert.equal(await renewIfDue(t.place.stateDirectory, t.issuer.address), false);
  assert.equal(keys(), first);
  const now = Date.now();
  const times = { notBefore: new Date(now - 3_600_000), notAfter: new Date(now + 3_500_000) };
  await giveUserKeys(t.place.stateDirectory, "ada", times);
  assert.equal(await renewIfDue(t.place.stateDirectory, t.issuer.address), true);
  assert.equal(userOf(readValidCredentials(t.place.stateDirectory)), "ada");
  assert.equal(t.issuer.renewals, 1);
});
