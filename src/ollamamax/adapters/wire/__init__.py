"""HTTP/1.1 to other machines: one small client under engines and links. The other adapter packages build on it."""
