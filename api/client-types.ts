import type { z } from 'zod';
import type * as events from './events/responses.ts';
import type * as jobs from './jobs/responses.ts';
import type * as operations from './operations/responses.ts';
import type * as uploads from './uploads/responses.ts';
import type * as webhooks from './webhooks/responses.ts';

type Schemas = typeof uploads & typeof jobs & typeof events & typeof operations & typeof webhooks;

/** A document of the API, by the name of its schema: the types of the command line and the dashboard. */
export type Answer<Name extends keyof Schemas> = z.output<Schemas[Name]>;
