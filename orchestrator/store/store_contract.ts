/** What every Store must do, as tests; each implementation's own test runs them. */
import { agentLimitsContract } from "./agent_limits_contract.ts";
import type { ContractTest, TestDatabase } from "./contract_test_database.ts";
import { identityStoreContract } from "./identity_store_contract.ts";
import { leaseStoreContract } from "./lease_store_contract.ts";
import { sessionStoreContract } from "./session_store_contract.ts";
import { warmAgentStoreContract } from "./warm_agent_store_contract.ts";

/**
 * Registers the tests of all parts.
 *
 * @param create Makes a database.
 * @param starts So many starts race where any number may.
 */
export function storeContract(
  name: string,
  create: () => Promise<TestDatabase> | TestDatabase,
  { starts = 1000 }: { starts?: number } = {},
): void {
  const test: ContractTest = (promise, run) =>
    Deno.test(`${name}: ${promise}`, async () => {
      await using database = await create();
      await using store = await database.open();
      await run(store, database);
    });

  sessionStoreContract(test);
  agentLimitsContract(test, starts);
  leaseStoreContract(test);
  warmAgentStoreContract(test, starts);
  identityStoreContract(test);
}
