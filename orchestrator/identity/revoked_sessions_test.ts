import assert from "node:assert/strict";
import { request, World } from "../testing/session_world.ts";
import { RevokedSessions } from "./revoked_sessions.ts";

Deno.test({
  name: "the sessions of a user who is locked out end, and nobody else's",
  // gRPC's channels close a moment after they are told to.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await using world = new World();
    const { identities } = world.store;
    await world.get();
    await world.get({ userId: "bob" });
    using revoked = new RevokedSessions({ identities, sessions: world.service, log() {}, lookMs: 3600_000 });
    await revoked.look();
    assert.equal((await world.session())?.status, "READY");
    await identities.revoke("ann", "spiffe://rbs.internal/user/ann", 1);
    await revoked.look();
    assert.equal(await world.session(), undefined);
    assert.equal((await world.store.sessions.get(request({ userId: "bob" })))?.status, "READY");
  },
});
