"""Whatever network looks at images: one address in, class and patch tokens out."""
