/** What every IdentityStore must do, as tests: see store_contract.ts. */
import assert from "node:assert/strict";
import type { ContractTest } from "./contract_test_database.ts";
import type { Store } from "./store.ts";
import { TokenEnroller } from "../identity/enroller.ts";
import { eventually } from "../../tests/support/eventually.ts";

const URI = "spiffe://rbs.internal/user/ann";

/** Registers the tests. */
export function identityStoreContract(contract: ContractTest): void {
  const test = (promise: string, run: (a: Store, b: Store) => Promise<void>) =>
    contract(promise, async (a, database) => {
      await using b = await database.open();
      await run(a, b);
    });

  test("a token is good once, for one of any number of takers at any orchestrator", async (a, b) => {
    await a.identities.addToken("hash", { uri: URI, expiresAt: 2_000 }, 1_000);
    assert.equal(await b.identities.takeToken("other", 1_500), undefined);
    const taken = await Promise.all(
      Array.from({ length: 10 }, (_, i) => [a, b][i % 2].identities.takeToken("hash", 1_500)),
    );
    assert.deepEqual(taken.filter((enrolment) => enrolment), [{ uri: URI, expiresAt: 2_000 }]);
    assert.equal(await a.identities.takeToken("hash", 1_500), undefined);
  });

  test("a token that has expired is worth nothing, and goes", async ({ identities }) => {
    await identities.addToken("late", { uri: URI, expiresAt: 2_000 }, 1_000);
    assert.equal(await identities.takeToken("late", 2_000), undefined);
    await identities.addToken("old", { uri: URI, expiresAt: 2_000 }, 1_000);
    await identities.addToken("new", { uri: URI, expiresAt: 9_000 }, 5_000);
    // By an earlier clock it would still be good, were it there.
    assert.equal(await identities.takeToken("old", 1_000), undefined);
    assert.deepEqual(await identities.takeToken("new", 5_000), { uri: URI, expiresAt: 9_000 });
  });

  test("a user who is locked out is so everywhere, tokens included, until let in again", async (a, b) => {
    assert.equal(await b.identities.isRevoked("ann"), false);
    await a.identities.addToken("hash", { uri: URI, expiresAt: 2_000 }, 1_000);
    await a.identities.addToken("bob's", { uri: "spiffe://rbs.internal/user/bob", expiresAt: 2_000 }, 1_000);
    await a.identities.revoke("ann", URI, 1_500);
    await a.identities.revoke("ann", URI, 1_600);
    assert.equal(await a.identities.isRevoked("ann"), true);
    assert.equal(await a.identities.isRevoked("bob"), false);
    assert.deepEqual(await b.identities.revokedUsers(), ["ann"]);
    await eventually(() => b.identities.isRevoked("ann"), "the other orchestrator learns of it", 5_000);
    assert.equal(await b.identities.takeToken("hash", 1_500), undefined);
    assert.ok(await b.identities.takeToken("bob's", 1_500));
    await a.identities.revoke("ann", URI, undefined);
    assert.equal(await a.identities.isRevoked("ann"), false);
  });

  test("of a token only its hash is kept", async ({ identities }) => {
    const kept: string[] = [];
    const spy = {
      ...identities,
      addToken: (hash: string, enrolment: { uri: string; expiresAt: number }, now: number) => {
        kept.push(hash, JSON.stringify(enrolment));
        return identities.addToken(hash, enrolment, now);
      },
      takeToken: (hash: string, now: number) => identities.takeToken(hash, now),
    } as unknown as Store["identities"];
    let now = 1_000;
    const enroller = new TokenEnroller(spy, "rbs.internal", () => now);
    const token = await enroller.issue({ kind: "user", userId: "ann" }, 500);
    assert.match(token, /^[\w-]{43}$/);
    assert(!kept.join().includes(token));
    await assert.rejects(enroller.redeem(token.slice(1)), /This orchestrator does not know the token/);
    await assert.rejects(enroller.redeem(""), /This orchestrator does not know the token/);
    assert.deepEqual(await enroller.redeem(token), { kind: "user", userId: "ann" });
    await assert.rejects(enroller.redeem(token), /it was used before/);
    const late = await enroller.issue({ kind: "user", userId: "ann" }, 500);
    now = 1_500;
    await assert.rejects(enroller.redeem(late), /This orchestrator does not know the token/);
  });
}
