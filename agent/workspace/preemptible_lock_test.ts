import assert from "node:assert/strict";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import { type Caller, Turns } from "./preemptible_lock.ts";

const forever = () => new Promise<never>(() => {});
const caller = (epoch = 1, gone = new AbortController().signal): Caller => ({ epoch, gone });
const givesWay = (e: unknown) => e instanceof StatusError && e.code === Status.UNAVAILABLE;

Deno.test("the next call waits until the present one is over, whatever it does meanwhile", async () => {
  const turns = new Turns(60_000);
  const first = await turns.take(caller());
  const order: string[] = [];
  const second = turns.take(caller()).then((turn) => (order.push("second"), turn));
  const third = turns.take(caller()).then((turn) => (order.push("third"), turn));
  assert.equal(await first.listen(Promise.resolve("more")), "more");
  order.push("first");
  first[Symbol.dispose]();
  (await second)[Symbol.dispose]();
  (await third)[Symbol.dispose]();
  assert.deepEqual(order, ["first", "second", "third"]);
});

Deno.test("a call whose caller is silent gives way to the next one", async () => {
  const turns = new Turns(20);
  const first = await turns.take(caller());
  const second = turns.take(caller());
  await assert.rejects(first.listen(forever()), givesWay);
  first[Symbol.dispose]();
  (await second)[Symbol.dispose]();
});

Deno.test("a newer epoch does not wait for an older one to say more", async () => {
  const turns = new Turns(60_000);
  const first = await turns.take(caller(1));
  const second = turns.take(caller(2));
  await assert.rejects(first.listen(forever()), givesWay);
  await assert.rejects(first.listen(Promise.resolve()), givesWay);
  first[Symbol.dispose]();
  (await second)[Symbol.dispose]();
});

Deno.test("who is gone does not wait any more", async () => {
  const turns = new Turns(60_000);
  using _first = await turns.take(caller());
  const gone = new AbortController();
  const second = turns.take(caller(1, gone.signal));
  gone.abort(new Error("cut"));
  await assert.rejects(second, /cut/);
  await assert.rejects(turns.take(caller(1, gone.signal)), /cut/);
});
