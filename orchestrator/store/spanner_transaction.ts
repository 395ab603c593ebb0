import type { Database, Transaction } from "@google-cloud/spanner";
import type { ServiceError } from "@grpc/grpc-js";
import { pause } from "../../proto/base/timers.ts";
import { Code } from "../../proto/transport/rpc/client.ts";

/** The library's options for one call. */
export type CallOptions = NonNullable<Parameters<Transaction["rollback"]>[0]>;

/** Retries unavailable calls soon, and until the deadline. The library's own limit is ten minutes. */
export function callOptions(timeoutMs: number): CallOptions {
  return {
    timeout: timeoutMs,
    retry: {
      retryCodes: [Code.UNAVAILABLE],
      backoffSettings: {
        initialRetryDelayMillis: 100,
        retryDelayMultiplier: 1.5,
        maxRetryDelayMillis: 1_000,
        initialRpcTimeoutMillis: timeoutMs,
        rpcTimeoutMultiplier: 1,
        maxRpcTimeoutMillis: timeoutMs,
        totalTimeoutMillis: timeoutMs,
      },
    },
  };
}

/**
 * Runs a read-write transaction, as often as Spanner aborts it, and commits it if something happened in it. Throws the
 * library's errors.
 *
 * @param timeoutMs No attempt starts after this time. Milliseconds.
 */
export async function readWrite<T extends { happened: boolean }>(
  database: Database,
  timeoutMs: number,
  work: (transaction: Transaction) => Promise<T>,
): Promise<T> {
  const call = callOptions(timeoutMs);
  const deadline = Date.now() + timeoutMs;
  for (let attempt = 1;; attempt++) {
    const timeout = deadline - Date.now();
    if (timeout <= 0) throw new Error("no answer in time");
    const result = await database.runTransactionAsync<T | undefined>({ timeout }, async (transaction) => {
      try {
        // Explicitly: left to the first read, it is also tried after a failed read, and that error is not caught.
        if (!transaction.id) await transaction.begin(call);
        const result = await work(transaction);
        if (result.happened) await transaction.commit({ gaxOptions: call });
        else await transaction.rollback(call);
        return result;
      } catch (e) {
        if (!wasAbortedWithoutAdvice(e)) throw e;
        return undefined;
      }
    });
    if (result) return result;
    await pause(Math.random() * Math.min(200, 5 * 2 ** attempt));
  }
}

/**
 * Spanner says when to retry an aborted transaction, and the library does. The emulator does not, and then the library
 * waits for seconds.
 */
function wasAbortedWithoutAdvice(thrown: unknown): boolean {
  const { code, metadata } = thrown as Partial<ServiceError>;
  return Number(code) === Code.ABORTED && !metadata?.get("google.rpc.retryinfo-bin").length;
}
