import type { ScannedEntry } from "../../proto/tree/scan.ts";

/** What is known of a tree of the developer's. */
export interface Root {
  /** Absolute, the developer's. */
  readonly path: string;
  single: boolean;
  readOnly: boolean;
  entries: Map<string, ScannedEntry>;
  /** Paths of files that were not looked at since they were written, see {@link UNSEEN}. */
  unseen: Set<string>;
  /** Its entries are those of the present generation, as far as only we have written. */
  known: boolean;
}

/**
 * The inode of a file that was written and not looked at yet: a hundred thousand looks can wait until nobody does. Its
 * ctimeMs is when it was written: what has a later one was changed by somebody else.
 */
export const UNSEEN = -1;
