import type { Store } from "./store.ts";

/** An empty database for one test. */
export interface TestDatabase extends AsyncDisposable {
  /** Opens a store on it, for one orchestrator. The test closes it. */
  open(): Promise<Store> | Store;
}

/** Registers a test with an empty database and a store on it. */
export type ContractTest = (promise: string, run: (store: Store, database: TestDatabase) => Promise<void>) => void;
