"""The upsamplers: small image to large image."""
