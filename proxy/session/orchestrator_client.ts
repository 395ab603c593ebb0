import { sentence } from "../../proto/base/errors.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import type { Orchestrator } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { renewIfDue } from "../../proto/enrolment/renewal.ts";
import { type HeldCredentials, type Holder, readValidCredentials } from "../../proto/identity/key_directory.ts";
import { createRpcClient, type RpcClient, type Service, withClocks } from "../../proto/transport/rpc/client.ts";
import { type OrchestratorError, orchestratorError } from "./orchestrator_error.ts";

/** Options of {@link OrchestratorClient}. */
export interface OrchestratorClientOptions {
  /** The orchestrator's "HOST:PORT", or several separated by commas. */
  address: string;
  /** The directory with the keys. Absolute path. */
  stateDirectory(): string;
  /** Whose keys. @default "user" */
  holder?: Holder;
  /** Hears why the certificate could not be renewed; the same reason only once. @default nobody does */
  onRenewalFailure?(why: string): void;
}

/** Options of {@link OrchestratorClient.ask}. */
export interface AskOptions {
  /** Once it is aborted, no other orchestrator is asked. */
  signal?: AbortSignal;
  /** How long one orchestrator's answer is awaited; for the sentence. Milliseconds. */
  timeoutMs?: number;
  /** Whether the next orchestrator is asked after this failure. @default if the failure is a passing one */
  goOn?(error: OrchestratorError): boolean;
}

/**
 * The connection of this machine's user to the orchestrator, or to one of several that share their sessions. Connects on
 * the first call. Everything that it throws is an {@link OrchestratorError}.
 */
export class OrchestratorClient<S extends Service = typeof Orchestrator> implements Disposable {
  /** Which orchestrators there are, and which one is in use. */
  readonly addresses: OrchestratorAddresses;
  readonly #service: S;
  readonly #options: OrchestratorClientOptions;
  #connection?: { readonly rpc: RpcClient<S>; readonly credentials: HeldCredentials };
  #renewal?: Promise<void>;
  #renewalFailure = "";

  /** @param service What is called there. */
  constructor(service: S, options: OrchestratorClientOptions) {
    this.#service = service;
    this.#options = options;
    this.addresses = new OrchestratorAddresses(options.address);
  }

  /** Calls the orchestrator in use. Throws if the keys cannot be used. */
  get rpc(): RpcClient<S> {
    return this.#connected().rpc;
  }

  /** The keys in use. Throws if they cannot be used. */
  get credentials(): HeldCredentials {
    return this.#connected().credentials;
  }

  /**
   * The same by a new connection: in Deno, a channel that was refused once, or whose server was restarted, does not
   * recover reliably. Reads the keys again, since they may have been renewed.
   */
  connectAnew(): RpcClient<S> {
    this.close();
    return this.rpc;
  }

  #connected() {
    if (this.#connection) return this.#connection;
    try {
      const credentials = readValidCredentials(this.#options.stateDirectory(), this.#options.holder);
      const tls = { credentials, expected: { kind: "orchestrator" } } as const;
      return this.#connection = { credentials, rpc: createRpcClient(this.#service, this.addresses.current, { tls }) };
    } catch (e) {
      throw orchestratorError(e, this.addresses);
    }
  }

  /** Makes a call at one orchestrator after the other until one has answered, each at most once. */
  async ask<T>(call: (rpc: RpcClient<S>) => Promise<T>, options: AskOptions = {}): Promise<T> {
    const { signal, timeoutMs, goOn = (error) => error.isPassing } = options;
    for (;;) {
      try {
        const answer = await call(this.rpc);
        this.addresses.answered();
        return answer;
      } catch (e) {
        const error = await this.explain(e, timeoutMs);
        if (signal?.aborted || !goOn(error)) throw error;
        const isAnother = this.addresses.next();
        this.close();
        if (!isAnother) throw error;
      }
    }
  }

  /** What a failed call means. @param timeoutMs See {@link orchestratorError}. */
  async explain(thrown: unknown, timeoutMs?: number): Promise<OrchestratorError> {
    return orchestratorError(await withClocks(thrown, this.addresses.current), this.addresses, timeoutMs);
  }

  /** Renews the certificate when it is due, so that regular use needs no new login. Never rejects: a later call retries. */
  renewKeys(): Promise<void> {
    const { holder, onRenewalFailure } = this.#options;
    const renew = async () => {
      try {
        await renewIfDue(this.#options.stateDirectory(), this.addresses.current, holder ?? "user");
        this.#renewalFailure = "";
      } catch (e) {
        const why = sentence(e);
        if (why !== this.#renewalFailure) onRenewalFailure?.(why);
        this.#renewalFailure = why;
      } finally {
        this.#renewal = undefined;
      }
    };
    // Not at the end of `renew`, which may be there before this assignment.
    return this.#renewal ??= Promise.resolve().then(renew);
  }

  /** Closes the connection. The next call makes a new one. */
  close(): void {
    this.#connection?.rpc.close();
    this.#connection = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
