import assert from "node:assert/strict";
import type { SuperviseRequest } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { type CallContext, Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { Activity } from "./activity.ts";
import { Gate } from "./gate.ts";
import { Lease } from "./lease.ts";
import { Supervision } from "./supervise_service.ts";
import { eventually } from "../../tests/support/eventually.ts";

type Message = SuperviseRequest["message"];

/** An agent's side door, and orchestrators that come to it. */
class World implements Disposable {
  readonly gate = new Gate({ accessToken: "a", owner: "ann", epoch: 1 });
  readonly activity = new Activity();
  readonly stops: number[] = [];
  readonly orchestrators: string[] = [];
  expired = false;
  readonly lease = new Lease({ durationMs: 20, activity: this.activity, onExpired: () => void (this.expired = true) });
  readonly supervision = new Supervision({
    gate: this.gate,
    lease: this.lease,
    activity: this.activity,
    onStop: (graceMs) => this.stops.push(graceMs),
    onOrchestrator: (address) => this.orchestrators.push(address),
  });

  /** A Supervise call that has sent `messages`; `send` sends more. */
  call(...messages: Message[]) {
    const queue = [...messages];
    let more = Promise.withResolvers<void>();
    const hungUp = new AbortController();
    async function* requests() {
      for (;;) {
        while (queue.length > 0) yield { message: queue.shift()! } as SuperviseRequest;
        await more.promise;
        more = Promise.withResolvers();
      }
    }
    const context = { signal: hungUp.signal } as CallContext;
    const answers = this.supervision.supervise(requests(), context)[Symbol.asyncIterator]();
    return {
      next: () => answers.next(),
      send: (message: Message) => {
        queue.push(message);
        more.resolve();
      },
      hangUp: () => hungUp.abort(),
    };
  }

  [Symbol.dispose](): void {
    this.lease[Symbol.dispose]();
  }
}

function setEpoch(epoch: number, term: number): Message {
  return { case: "setEpoch", value: { $typeName: "rbs.v1.SetEpoch", epoch, term, orchestratorAddress: `o${term}:1` } };
}

const STOP: Message = { case: "stop", value: { $typeName: "rbs.v1.StopAgent", graceMs: 7 } };

function isReplaced(e: unknown): boolean {
  return e instanceof RpcError && e.code === Code.ABORTED;
}

Deno.test("a supervisor of the same or a newer term replaces the former one", async () => {
  using world = new World();
  world.supervision.ready([], true);
  let former = world.call(setEpoch(1, 1));
  assert.equal((await former.next()).done, false);
  for (const term of [1, 2, 7]) {
    const next = world.call(setEpoch(1, term));
    assert.equal((await next.next()).value.message.case, "ready");
    await assert.rejects(former.next(), isReplaced);
    former = next;
  }
  former.hangUp();
  assert.equal((await former.next()).done, true);
});

Deno.test("a supervisor of an older term is refused, and nothing that it asks for happens", async () => {
  using world = new World();
  world.supervision.ready([], true);
  const holder = world.call(setEpoch(4, 2));
  await holder.next();
  await assert.rejects(world.call(setEpoch(9, 1), STOP).next(), isReplaced);
  assert.equal(world.gate.epoch, 4);
  assert.deepEqual(world.stops, []);
  holder.send(STOP);
  holder.send(setEpoch(5, 2));
  const silent = holder.next();
  await eventually(() => world.gate.epoch >= 5);
  assert.deepEqual(world.stops, [7]);
  holder.hangUp();
  assert.equal((await silent).done, true);
});

Deno.test("a replaced supervisor cannot stop the agent any more", async () => {
  using world = new World();
  world.supervision.ready([], true);
  const former = world.call(setEpoch(1, 1));
  await former.next();
  const holder = world.call(setEpoch(1, 2));
  await holder.next();
  former.send(STOP);
  await assert.rejects(former.next(), isReplaced);
  assert.deepEqual(world.stops, []);
  holder.hangUp();
});

Deno.test("who comes with an epoch only raises it, and leaves the agent to its supervisor", async () => {
  using world = new World();
  world.supervision.ready([], true);
  const holder = world.call(setEpoch(1, 3));
  await holder.next();
  assert.deepEqual(await world.call(setEpoch(6, 0), STOP).next(), { done: true, value: undefined });
  assert.equal(world.gate.epoch, 6);
  assert.deepEqual(world.stops, []);
  const next = holder.next();
  world.supervision.failed("x");
  assert.equal((await next).value.message.case, "failed");
  holder.hangUp();
  await holder.next();
});

Deno.test("a call that has not said its term does not keep the agent alive", async () => {
  using world = new World();
  const call = world.call();
  void call.next();
  await eventually(() => world.expired);
  call.hangUp();
});

Deno.test("commands are told of, what runs already at once, and one that was over before it was told as well", async () => {
  using world = new World();
  world.supervision.ready([], true);
  const early = world.activity.begin();
  const holder = world.call(setEpoch(1, 1));
  assert.equal((await holder.next()).value.message.case, "ready");
  const told = async () => (await holder.next()).value.message.value.runningCommands;
  assert.equal(await told(), 1);
  early[Symbol.dispose]();
  assert.equal(await told(), 0);
  world.activity.begin()[Symbol.dispose]();
  world.activity.begin()[Symbol.dispose]();
  assert.deepEqual([await told(), await told()], [1, 0], "both in one");
  using _runs = world.activity.begin();
  assert.equal(await told(), 1);
  holder.hangUp();
  assert.equal((await holder.next()).done, true);
});
