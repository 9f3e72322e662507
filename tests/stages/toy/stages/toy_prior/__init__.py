"""A stage that is as small as one can be: z_i is a linear map of z_t."""
