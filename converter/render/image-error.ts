import { AppError, isOutOfMemory } from '../../runtime/errors.ts';
import { findUnsupportedFeature } from './find-unsupported-feature.ts';

/** The AppError for an error of libvips: `out_of_memory`, `unsupported_feature` or `corrupt_file`. */
export async function imageError(file: string, cause: unknown): Promise<unknown> {
  // A file that is gone is no fault of the image.
  if (cause instanceof Error && /file is missing/.test(cause.message)) return cause;
  if (isOutOfMemory(cause)) {
    return new AppError('out_of_memory', 'the image needs more memory than was reserved', { retryable: true, cause });
  }
  const feature = await findUnsupportedFeature(file);
  return feature === null
    ? new AppError('corrupt_file', 'the image cannot be read', { cause })
    : new AppError('unsupported_feature', `${feature} is not supported`, { cause });
}
