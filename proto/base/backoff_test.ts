import assert from "node:assert/strict";
import { Backoff, type BackoffClock } from "./backoff.ts";

/** A clock that stands still until the test moves it, and dice that fall as the test says. */
class FakeClock implements BackoffClock {
  at = 1_000;
  /** How far the wall clock is ahead. */
  lead = 5e11;
  dice = 0;
  readonly timers = new Set<{ at: number; wake: () => void }>();

  now = () => this.at;
  wall = () => this.at + this.lead;
  random = () => this.dice;
  timer = (wake: () => void, milliseconds: number) => {
    const timer = { at: this.at + milliseconds, wake };
    this.timers.add(timer);
    return () => void this.timers.delete(timer);
  };

  /** Moves on to the next timer. */
  async step(): Promise<void> {
    const next = [...this.timers].sort((a, b) => a.at - b.at)[0];
    this.timers.delete(next);
    this.at = next.at;
    next.wake();
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** Moves on until a wait is over. @returns the time that it took */
  async take(wait: Promise<void>): Promise<number> {
    const before = this.at;
    let over = false;
    void wait.then(() => over = true);
    await new Promise((resolve) => setImmediate(resolve));
    while (!over) await this.step();
    assert.equal(this.timers.size, 0, "a timer is left");
    return Math.round(this.at - before);
  }
}

/** The lengths of the next waits. */
async function waits(backoff: Backoff, clock: FakeClock, count: number): Promise<number[]> {
  const lengths: number[] = [];
  while (lengths.length < count) lengths.push(await clock.take(backoff.wait()));
  return lengths;
}

const ALMOST_ONE = 1 - 2 ** -40;

Deno.test("waits double from 100 ms to 5 s, and stay there", async () => {
  const clock = new FakeClock();
  clock.dice = ALMOST_ONE;
  const backoff = new Backoff({ clock });
  assert.deepEqual(await waits(backoff, clock, 9), [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
});

Deno.test("chance shortens a wait to half its length at most", async () => {
  const clock = new FakeClock();
  const backoff = new Backoff({ clock });
  assert.deepEqual(await waits(backoff, clock, 8), [50, 100, 200, 400, 800, 1600, 2500, 2500]);
  backoff.reset();
  clock.dice = 0.5;
  assert.deepEqual(await waits(backoff, clock, 2), [75, 150]);
});

Deno.test("with real dice, two who lost the same peer do not come back together", async () => {
  const lengths = async () => {
    const clock = new FakeClock();
    clock.random = Math.random;
    const all = await waits(new Backoff({ clock }), clock, 20);
    for (const [i, length] of all.entries()) {
      const most = Math.min(100 * 2 ** i, 5_000);
      assert(length >= most / 2 && length <= most, `wait ${i} took ${length} ms`);
    }
    return all;
  };
  assert.notDeepEqual(await lengths(), await lengths());
});

Deno.test("other bounds are kept to", async () => {
  const clock = new FakeClock();
  clock.dice = ALMOST_ONE;
  assert.deepEqual(await waits(new Backoff({ least: 30, most: 100, clock }), clock, 4), [30, 60, 100, 100]);
  assert.deepEqual(await waits(new Backoff({ least: 30, most: 300, factor: 4, clock }), clock, 3), [30, 120, 300]);
});

Deno.test("after an attempt that went well, waits are short again", async () => {
  const clock = new FakeClock();
  clock.dice = ALMOST_ONE;
  const backoff = new Backoff({ clock });
  await waits(backoff, clock, 10);
  backoff.reset();
  assert.deepEqual(await waits(backoff, clock, 2), [100, 200]);
});

Deno.test("an abort ends a wait at once, and leaves neither timer nor listener", async () => {
  const clock = new FakeClock();
  const stop = new AbortController();
  let listeners = 0;
  const signal = new Proxy(stop.signal, {
    get(target, name) {
      if (name === "addEventListener") listeners++;
      if (name === "removeEventListener") listeners--;
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const wait = new Backoff({ clock, least: 5_000 }).wait(signal);
  assert.equal(clock.timers.size, 1);
  assert.equal(listeners, 1);
  stop.abort();
  assert.equal(await clock.take(wait), 0);
  assert.equal(listeners, 0);
});

Deno.test("with a signal that is aborted already, nothing is waited for, and the next wait is longer all the same", async () => {
  const clock = new FakeClock();
  clock.dice = ALMOST_ONE;
  const backoff = new Backoff({ clock });
  await backoff.wait(AbortSignal.abort());
  assert.equal(clock.timers.size, 0);
  assert.deepEqual(await waits(backoff, clock, 1), [200]);
});

Deno.test("a machine that slept tries again as soon as it is awake", async () => {
  const clock = new FakeClock();
  const backoff = new Backoff({ clock, least: 5_000 });
  const wait = backoff.wait();
  await clock.step();
  clock.lead += 60_000; // The lid was closed for a minute.
  assert.ok(await clock.take(wait) <= 250);
  assert.equal(await clock.take(backoff.wait()), 2_500, "the sleep counts once");
});

Deno.test("a wall clock that is set a little, or back, changes no wait", async () => {
  for (const change of [1_900, -3_600_000]) {
    const clock = new FakeClock();
    const wait = new Backoff({ clock, least: 5_000 }).wait();
    clock.lead += change;
    assert.equal(await clock.take(wait), 2_500);
  }
});

Deno.test("the machine's own clock is used unless a test brings another", async () => {
  const began = performance.now();
  await new Backoff({ least: 40 }).wait();
  // A timer may be early by a millisecond.
  assert.ok(performance.now() - began >= 19);
});
