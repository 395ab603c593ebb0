import assert from "node:assert/strict";
import { ByteBudget, Holding } from "./byte_budget.ts";

Deno.test("a budget of bytes gives what there is, and again what was given back", () => {
  const budget = new ByteBudget(10);
  assert(budget.take(6));
  assert(!budget.take(5));
  assert(budget.take(4));
  budget.give(5);
  assert.equal(budget.held, 5);
  assert(budget.take(5));
});

Deno.test("what one holder has of a budget goes back at once, and nothing after it", () => {
  const budget = new ByteBudget(10);
  const one = new Holding(budget), other = new Holding(budget);
  assert(one.take(4) && one.take(2) && other.take(3));
  assert(!other.take(2));
  one.give(1);
  one.release();
  assert.equal(budget.held, 3);
  one.give(1);
  one.release();
  assert(!one.take(1));
  assert.equal(budget.held, 3);
  assert(other.take(7));
});
